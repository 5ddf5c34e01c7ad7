"""Train, kill, resume and train anew on the devices of this machine, and say which of it gives the same bits.

    python benchmarks/same_bits.py
    python benchmarks/same_bits.py --model mobilenet_v2 --image-size 64 --dtype bfloat16

Three things are compared, number by number. "repeated": the same steps, taken twice from the same state by one
process. "resumed": a run that SIGKILL ends and another process resumes, with the programs that were kept before, and a
run that nothing stops. "compiled anew": that run, and one whose process compiles everything itself. Where the devices
are GPUs, all of it happens twice, the second time with --deterministic of experiments/train.py, so that the table shows
what that costs too. The network trains on a few of scikit-learn's digits, which need no download; nothing is left
behind.

Exit codes: 0, or 1 if anything differs that should not: with --deterministic, and on devices that are no GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from reporting import add_flags, report
from rich.console import Console

from cnnjax.runs import RunDirectory
from cnnjax.training import Checkpoints, ClassifierSetup, TrainConfig, fit
from cnnjax.training.command import only_processors
from cnnjax.training.compilation import OFF
from cnnjax.training.metrics import zero_sums
from cnnjax.training.setup import device_name

# What child processes do: a run that nothing stops, one that is killed, that one again, and one with its own programs.
PARTS = ("whole", "killed", "resumed", "anew")
# Small, with max pooling and batch norm.
MODEL, FIELDS = "resnet18", ["stage_sizes=[1,1,1,1]"]
CHECKPOINT_STEPS = 5
KILLED_AT = 12


def config_of(given: argparse.Namespace, part: str, deterministic: bool, folder: Path) -> TrainConfig:
    """Return the run of a part."""
    return TrainConfig(
        model=given.model,
        model_fields=tuple(given.model_fields),
        dataset="digits",
        image_size=given.image_size,
        dtype=given.dtype,
        batch_size=given.batch_size,
        train_examples=16 * given.batch_size,
        test_examples=64,
        epochs=given.steps / 16,
        log_steps=1,
        checkpoint_steps=CHECKPOINT_STEPS,
        parallel="single",
        data_on_device="no",
        deterministic=deterministic,
        compilation_cache=OFF if part == "anew" else str(folder / "programs"),
        workdir=folder / {"whole": "whole", "anew": "anew"}.get(part, "killed"),
    )


def take_part(given: argparse.Namespace) -> None:
    """Do what a child process is for, and print what was found as JSON."""
    config = config_of(given, given.part, given.deterministic == "yes", given.folder)

    def die(record: Mapping[str, Any]) -> None:
        if record["step"] >= KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    # Programs of any size are kept, since how fast they compile is not the point.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    fit(config, Console(stderr=True), loggers=[die] if given.part == "killed" else [])
    found: dict[str, Any] = {"device": device_name(), "platform": jax.default_backend()}
    if given.part == "whole":
        found |= repeat(config)
    print(json.dumps(found))


def repeat(config: TrainConfig) -> dict[str, Any]:
    """Take the steps of a run twice; return which arrays differ, of how many, and the milliseconds of a step."""
    setup = ClassifierSetup.create(config)
    batches = list(setup.pipeline.train_batches(config.batch_size, setup.num_steps, config.seed))
    rounds, seconds = [], []
    for _ in range(2):
        state, sums = setup.devices.replicate((setup.initial_state(), zero_sums(setup.metrics)))
        started = time.perf_counter()
        for batch in batches:
            state, sums = setup.train(state, sums, batch)
        jax.block_until_ready(state.params)
        seconds.append((time.perf_counter() - started) / len(batches))
        leaves = jax.tree.leaves_with_path({"params": state.params, "batch_stats": state.batch_stats, "sums": sums})
        rounds.append(
            {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
        )
    return {"repeated": compare(*rounds), "step_ms": 1e3 * seconds[1]}


def compare(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return how many arrays there are, and the names of those whose bits differ."""
    differing = [
        name
        for name in sorted(first.keys() | second.keys())
        if name not in first or name not in second or first[name].tobytes() != second[name].tobytes()
    ]
    return {"arrays": len(first), "differing": differing}


def compare_runs(first: Path, second: Path, config: TrainConfig) -> dict[str, Any]:
    """Compare the last checkpoints of two runs, and find the first step whose loss differs."""
    arrays, losses = [], []
    for folder in (first, second):
        with Checkpoints(folder / "checkpoints") as checkpoints:
            arrays.append(checkpoints.read(checkpoints.steps[-1])[0])
        records = RunDirectory(folder, dataclasses.replace(config, workdir=folder)).records()
        losses.append({record["step"]: record["train_loss"] for record in records if "train_loss" in record})
    steps = sorted(step for step, loss in losses[0].items() if loss != losses[1].get(step))
    return compare(*arrays) | {"first_loss": steps[0] if steps else None}


def measure(given: argparse.Namespace, deterministic: bool, folder: Path, progress: Console) -> dict[str, Any]:
    """Return a row: what is the same, and what is not."""
    answers: dict[str, Any] = {}
    # Where JAX was told to keep programs, nothing would be compiled anew.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    for part in PARTS:
        progress.print(f"{part}{', deterministic' if deterministic else ''}", highlight=False)
        flags = ["--deterministic", "yes" if deterministic else "no", "--part", part, "--folder", str(folder)]
        for name in ("model", "dtype", "image_size", "batch_size", "steps"):
            flags += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
        command = [sys.executable, __file__, *flags, "--model-fields", *given.model_fields]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != (-signal.SIGKILL if part == "killed" else 0):
            raise RuntimeError(f"{part} ended with exit code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
        if part != "killed":
            answers[part] = json.loads(done.stdout.splitlines()[-1])
    config = config_of(given, "whole", deterministic, folder)
    return {
        "device": answers["whole"]["device"],
        "platform": answers["whole"]["platform"],
        "deterministic": deterministic,
        "model": given.model,
        "model_fields": given.model_fields,
        "dtype": given.dtype,
        "steps": given.steps,
        "step_ms": answers["whole"]["step_ms"],
        "repeated": answers["whole"]["repeated"],
        "resumed": compare_runs(folder / "whole", folder / "killed", config),
        "compiled anew": compare_runs(folder / "whole", folder / "anew", config),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row for each way to make programs, and below it what differs."""

    def cell(found: Mapping[str, Any]) -> str:
        return f"{len(found['differing'])} of {found['arrays']} differ" if found["differing"] else "same bits"

    parts = ("repeated", "resumed", "compiled anew")
    print(f"| device | --deterministic | {' | '.join(parts)} | step, ms |")
    print("|---|---|---|---|---|--:|")
    for row in rows:
        cells = " | ".join(cell(row[part]) for part in parts)
        print(f"| {row['device']} | {'yes' if row['deterministic'] else 'no'} | {cells} | {row['step_ms']:.1f} |")
    print()
    for row in rows:
        for part in parts:
            if names := row[part]["differing"]:
                print(f"{part}{', deterministic' if row['deterministic'] else ''}: {', '.join(names[:8])}", end="")
                print(f" and {len(names) - 8} more" if len(names) > 8 else "", end="")
                step = row[part].get("first_loss")
                print("" if step is None else f"; the first loss that differs is that of step {step}")


def main() -> int:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=f"a classifier; default: {MODEL} with {' '.join(FIELDS)}")
    parser.add_argument("--model-fields", nargs="*", help="fields of the network, as in experiments/train.py")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=32, help=f"of a run, more than {KILLED_AT}")
    parser.add_argument(
        "--deterministic",
        choices=("auto", "no", "yes"),
        default="auto",
        help="whether XLA is asked for the same bits each time; auto measures both on GPUs, and no elsewhere",
    )
    add_flags(parser)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.model_fields is None:
        given.model_fields = FIELDS if given.model is None else []
    given.model = given.model or MODEL
    if given.steps <= KILLED_AT:
        parser.error(f"--steps must be more than {KILLED_AT}, the step after which a run is killed, got {given.steps}")
    if given.part:
        take_part(given)
        return 0
    # The devices are for the processes that take part: this one would keep memory of a GPU from them.
    if not only_processors():
        jax.config.update("jax_platforms", "cpu")
    progress, rows = Console(stderr=True), list[dict[str, Any]]()
    for deterministic in (False, True):
        if given.deterministic == "auto":
            wanted = not deterministic or rows[0]["platform"] == "gpu"
        else:
            wanted = deterministic == (given.deterministic == "yes")
        if wanted:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(given, deterministic, Path(folder), progress))
    report(given, rows, rows, lambda: print_table(rows))
    promised = [row for row in rows if row["deterministic"] or row["platform"] != "gpu"]
    return int(any(row[part]["differing"] for row in promised for part in ("repeated", "resumed", "compiled anew")))


if __name__ == "__main__":
    sys.exit(main())
