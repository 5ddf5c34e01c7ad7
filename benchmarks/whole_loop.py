"""Whether reading keeps up with the step: JPEG files alone, the training step alone, and both together."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from input_pipeline import write_photographs
from reporting import as_rate
from rich.console import Console

import cnnjax
from cnnjax.training import ClassifierSetup, TrainConfig
from cnnjax.training.metrics import zero_sums

FILES = 512


def measure_input(name: str, given: argparse.Namespace, progress: Console) -> dict[str, Any]:
    """Return images per second of each, over as many steps as ``steps`` and ``repeats`` say.

    The files are photographs of about 500x375 pixels, random resized crops of which come to the step as in
    experiments/train.py: read, decoded and resized on the host while the device works, mirrored and normalised there.
    """
    steps = given.steps * given.repeats
    with tempfile.TemporaryDirectory() as scratch:
        # What is found out about the files goes away with them.
        os.environ["CNNJAX_CACHE"] = str(Path(scratch) / "cache")
        folder = Path(scratch) / "photographs"
        write_photographs(folder, max(FILES, given.batch_size))
        progress.print(f"{name}: {max(FILES, given.batch_size)} files are written")
        config = TrainConfig(
            model=name,
            dataset="folder",
            data_dir=folder,
            test_split="train",
            image_size=given.image_size or cnnjax.model_info(name).input_size[0],
            dtype=given.dtype,
            batch_size=given.batch_size,
            augment=("mirror",),
            normalization="model",
            optimizer="sgd",
            schedule="constant",
            workers=given.workers,
            parallel=given.parallel,
            data_on_device="no",
        )
        setup = ClassifierSetup.create(config)
        state, sums = setup.devices.replicate((setup.initial_state(), zero_sums(setup.metrics)))
        # The first batches start what reads ahead.
        batches = setup.pipeline.train_batches(given.batch_size, 2 + steps, config.seed)
        for _ in range(2):
            batch = next(batches)
        # One program, for batches of the host and of the device.
        program: Any = setup.train
        train = program.lower(state, sums, setup.devices.shard(batch)).compile()
        on_device = setup.devices.put(batch)
        state, sums = jax.block_until_ready(train(state, sums, on_device))
        progress.print(f"{name}: the step is compiled")

        started = time.perf_counter()
        for _ in batches:
            pass
        reading = time.perf_counter() - started

        started = time.perf_counter()
        for _ in range(steps):
            state, sums = train(state, sums, on_device)
        jax.block_until_ready(state.params)
        step = time.perf_counter() - started

        batches = setup.pipeline.train_batches(given.batch_size, 2 + steps, config.seed)
        for _ in range(2):
            next(batches)
        started = time.perf_counter()
        for batch in batches:
            state, sums = train(state, sums, setup.devices.shard(batch))
        jax.block_until_ready(state.params)
        both = time.perf_counter() - started
    images = steps * given.batch_size
    return {
        "model": name,
        "device": jax.local_devices()[0].device_kind,
        "dtype": given.dtype,
        "batch_size": given.batch_size,
        "workers": given.workers,
        "processors": len(os.sched_getaffinity(0)),
        "reading_images_per_second": images / reading,
        "step_images_per_second": images / step,
        "both_images_per_second": images / both,
        "of_the_step": step / both,
    }


def show_input(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    first = rows[0]
    print(
        f"{first['device']}, {first['dtype']}, batches of {first['batch_size']}, {first['processors']} processors, "
        f"{first['workers']} worker processes; images per second\n"
    )
    print("| network | JPEG files alone | training step alone | both together | of the step's speed |")
    print("|---|--:|--:|--:|--:|")
    for row in rows:
        rates = " | ".join(as_rate(row[f"{what}_images_per_second"]) for what in ("reading", "step", "both"))
        print(f"| `{row['model']}` | {rates} | {100 * row['of_the_step']:.0f} % |")
