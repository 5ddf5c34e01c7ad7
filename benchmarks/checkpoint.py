"""Measure what checkpoints and logging cost, as a share of an epoch.

    python benchmarks/checkpoint.py                               # of the embedded digits
    python benchmarks/checkpoint.py --recipe cifar10-resnet20 --data-dir DIR

After each step, the loop of `experiments/train.py` writes a training line and a checkpoint here, on an idle device, so
that each is timed alone: ``log`` reads the metrics and adds a line to the disk, ``save`` copies the state and hands it
over, ``write`` is what the background thread then takes until the checkpoint is on the disk. An epoch at default
settings has a line every 100 steps, one of its own, and one checkpoint. The share is an upper bound: it counts the
background's time as if training stood still meanwhile. Everything is the median of the repeats, in one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reporting import add_flags, report
from rich.console import Console

from cnnjax.runs import RunDirectory
from cnnjax.training import RECIPES, Checkpoints, ClassifierSetup
from cnnjax.training.interruption import Stop
from cnnjax.training.loop import TrainingLoop
from cnnjax.training.progress import RunProgress


def timed(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe",
        default="digits-lenet5",
        choices=sorted(RECIPES),
        help="what is trained (default: %(default)s, which needs no data)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder of prepared TFDS data sets")
    parser.add_argument("--repeats", type=int, default=10, help="steps, lines and checkpoints that are timed")
    add_flags(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    config = dataclasses.replace(RECIPES[arguments.recipe].config, data_dir=arguments.data_dir, parallel="single")
    try:
        setup = ClassifierSetup.create(config)
    except ValueError as error:
        parser.error(str(error))
    console = Console(stderr=True)
    seconds: dict[str, list[float]] = {"step": [], "log": [], "save": [], "write": []}
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "run", config)
        directory.create(setup.resolved())
        with Checkpoints(directory.checkpoint_directory) as checkpoints:
            run = TrainingLoop(setup, directory, checkpoints, console, time.perf_counter())
            run.restore()
            run.train(Stop(), until=1)
            # The first of each compiles and imports.
            with RunProgress(Console(quiet=True), setup.num_steps, 1, config.batch_size, "1") as progress:
                for number in range(arguments.repeats + 1):
                    console.print(f"{number} of {arguments.repeats}")
                    # Ends with the device idle.
                    found = {"step": timed(lambda: run.train(Stop(), until=run.step + 1))}
                    found["log"] = timed(lambda: run.log(progress))
                    found["save"] = timed(run.save)
                    found["write"] = timed(checkpoints.wait)
                    if number:
                        for name, value in found.items():
                            seconds[name].append(value)
            size = sum(file.stat().st_size for file in (directory.checkpoint_directory / str(run.step)).rglob("*"))
    steps = setup.num_examples / config.batch_size
    median = {name: statistics.median(values) for name, values in seconds.items()}
    lines = steps / config.log_steps + 1
    cost = lines * median["log"] + median["save"] + median["write"]
    result = {
        "recipe": arguments.recipe,
        "steps_an_epoch": steps,
        **{f"{name}_ms": 1e3 * value for name, value in median.items()},
        "checkpoint_bytes": size,
        "epoch_seconds": steps * median["step"],
        "cost_seconds": cost,
        "share_percent": 100 * cost / (steps * median["step"]),
    }

    def show() -> None:
        print(
            "| recipe | steps per epoch | step, ms | log, ms | save, ms | write, ms | checkpoint, MiB | of an epoch |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
        print(
            f"| {result['recipe']} | {steps:.0f} | {result['step_ms']:.0f} | {result['log_ms']:.1f} | "
            f"{result['save_ms']:.0f} | {result['write_ms']:.0f} | {size / 2**20:.1f} | "
            f"{result['share_percent']:.2f} % |"
        )

    report(arguments, result, [result], show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
