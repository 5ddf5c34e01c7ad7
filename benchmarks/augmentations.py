"""What does augmentation on the device cost, as a share of the training step it is part of?

    python benchmarks/augmentations.py
    python benchmarks/augmentations.py --only mirror crop:4+mirror randaugment --repeats 10

Each operation runs on a batch of uint8 images, compiled by itself, and takes turns with the whole training step of a
network on as many images, so that a machine whose speed drifts is fair to both. Then crops and mirrors of small images
are counted by the second. Inside the step the compiler fuses them further, so the shares are upper bounds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reporting import add_flags, report
from rich.console import Console
from rich.table import Table

from cnnjax.data import Preprocess
from cnnjax.data.augment import OPERATIONS, augment, parse_all
from cnnjax.models import create_model, model_info
from cnnjax.training import TrainState, make_optimizer, train_step

# Chains that recipes use, beside the single operations.
CHAINS = ("crop:4+mirror", "rotate+shear+zoom+translate", "mirror+randaugment+random-erasing+mixup-or-cutmix")
CLASSES = 1000


def batch_of(count: int, size: int) -> dict[str, jax.Array]:
    """Return random images, with what operations ask for."""
    random = np.random.default_rng(0)
    return {
        "image": jnp.asarray(random.integers(0, 256, (count, size, size, 3), np.uint8)),
        "label": jnp.asarray(random.integers(0, CLASSES, count, np.int32)),
        "foreground": jnp.asarray(random.random((count, size, size), np.float32) < 0.5),
    }


def compiled_chain(specs: str, batch: dict[str, jax.Array]) -> Callable[[], Any]:
    """Return a call of the operations that ``specs`` names, joined by plus signs."""
    operations = parse_all(specs.split("+"), num_classes=CLASSES)
    keys = jax.random.split(jax.random.key(0), len(batch["image"]))
    run = jax.jit(lambda batch, keys: augment(batch, keys, operations)).lower(batch, keys).compile()
    return lambda: jax.block_until_ready(run(batch, keys))


def compiled_step(model_name: str, batch: dict[str, jax.Array]) -> Callable[[], Any]:
    """Return a call of the whole training step, without augmentation."""
    info = model_info(model_name)
    size = batch["image"].shape[1]
    model = create_model(model_name, num_classes=CLASSES)
    tx = make_optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-4)
    state = TrainState.create(model, tx, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    step = partial(train_step, preprocess=Preprocess(info.mean, info.std))
    run = jax.jit(step).lower(state, batch).compile()
    return lambda: jax.block_until_ready(run(state, batch))


def milliseconds(call: Callable[[], Any], calls: int = 1) -> float:
    """Return the time of a call, mean over ``calls``."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return 1e3 * (time.perf_counter() - started) / calls


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="whose training step is the measure")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--only", nargs="*", default=[*OPERATIONS, *CHAINS], help="specs, joined by + in chains")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--small-batch", type=int, default=128, help="batch of 32x32 images to crop and mirror")
    add_flags(parser)
    arguments = parser.parse_args()
    console, progress = Console(), Console(stderr=True)

    batch = batch_of(arguments.batch_size, arguments.image_size)
    del batch["foreground"]
    with_object = batch_of(arguments.batch_size, arguments.image_size)
    progress.print(f"compiling the training step of {arguments.model}")
    step = compiled_step(arguments.model, batch)
    chains = {}
    for specs in arguments.only:
        progress.print(f"compiling {specs}")
        chains[specs] = compiled_chain(specs, with_object if "background" in specs else batch)
    small = compiled_chain("crop:4+mirror", {"image": batch_of(arguments.small_batch, 32)["image"]})

    step_times: list[float] = []
    times: dict[str, list[float]] = {specs: [] for specs in chains}
    rates: list[float] = []
    for turn in range(arguments.repeats + 1):
        progress.print(f"turn {turn} of {arguments.repeats}")
        one_step = milliseconds(step)
        each = {specs: milliseconds(chain, 2) for specs, chain in chains.items()}
        rate = 1e3 * arguments.small_batch / milliseconds(small, 100)
        if turn:  # The first warms up.
            step_times.append(one_step)
            rates.append(rate)
            for specs, value in each.items():
                times[specs].append(value)
    shares = {
        specs: statistics.median(value / one for value, one in zip(values, step_times, strict=True))
        for specs, values in times.items()
    }

    device = jax.devices()[0]
    table = Table(
        title=f"Augmentation of {arguments.batch_size} images of {arguments.image_size} pixels; the {arguments.model} "
        f"step takes {statistics.median(step_times):.0f} ms; {device.device_kind}, JAX {jax.__version__}, "
        f"Python {platform.python_version()}"
    )
    table.add_column("augmentation")
    table.add_column("ms", justify="right")
    table.add_column("of the step", justify="right")
    for specs, values in times.items():
        table.add_row(specs, f"{statistics.median(values):.1f}", f"{shares[specs]:.2%}")

    def show() -> None:
        console.print(table)
        console.print(
            f"crop:4 and mirror of 32x32 images, {arguments.small_batch} at once: {statistics.median(rates):,.0f} a "
            f"second (best turn {max(rates):,.0f})"
        )

    result = {"step_ms": step_times, "ms": times, "share": shares, "small_images_per_second": rates}
    rows = [
        {"augmentation": specs, "ms": statistics.median(values), "share_of_step": shares[specs]}
        for specs, values in times.items()
    ]
    report(arguments, vars(arguments) | result, rows, show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
