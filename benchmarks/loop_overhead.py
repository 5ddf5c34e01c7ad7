"""Compare the training loop with the bare compiled step on the same batches.

    python benchmarks/loop_overhead.py                               # of the embedded digits
    python benchmarks/loop_overhead.py --recipe cifar10-resnet20 --data-dir DIR --steps 60
    python benchmarks/loop_overhead.py --data-on-device yes --steps-per-dispatch 20

Both take the same steps from the same state. The bare step gets batches that were read before; the loop reads them,
shows progress and writes metrics, as `experiments/train.py` does; its evaluation and checkpoints are not counted. They
take turns, a slice of steps each, so that a machine whose speed drifts is fair to both.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
from reporting import add_flags, report
from rich.console import Console

from cnnjax.data.resident import ResidentPipeline
from cnnjax.runs import RunDirectory
from cnnjax.training import RECIPES, Checkpoints, ClassifierSetup
from cnnjax.training.dispatch import Dispatcher
from cnnjax.training.interruption import Stop
from cnnjax.training.loop import TrainingLoop
from cnnjax.training.metrics import zero_sums


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
    parser.add_argument("--steps", type=int, default=200, help="steps a slice")
    parser.add_argument("--slices", type=int, default=7, help="slices of each")
    parser.add_argument("--data-on-device", default="no", choices=("auto", "yes", "no"), help="of the loop")
    parser.add_argument("--steps-per-dispatch", type=int, default=1, help="of the loop")
    parser.add_argument("--loop-on-cpu", action="store_true", help="loop inside the program on CPUs too")
    add_flags(parser)
    arguments = parser.parse_args()
    if arguments.steps < 1 or arguments.slices < 1:
        parser.error("--steps and --slices must be at least 1")
    config = dataclasses.replace(
        RECIPES[arguments.recipe].config,
        data_dir=arguments.data_dir,
        parallel="single",
        epochs=1e6,
        warmup_epochs=0,
        data_on_device=arguments.data_on_device,
        steps_per_dispatch=arguments.steps_per_dispatch,
    )
    try:
        setup = ClassifierSetup.create(config)
    except ValueError as error:
        parser.error(str(error))
    batches = setup.pipeline.train_batches(config.batch_size, arguments.steps, config.seed)
    drawn = list(batches)
    arrays = None
    if isinstance(setup.pipeline, ResidentPipeline):
        arrays = setup.pipeline.arrays
        drawn = [{name: array[batch["index"]] for name, array in arrays.items()} for batch in drawn]
    if arguments.loop_on_cpu:
        if setup.train_stacked is None:
            parser.error("--loop-on-cpu needs --steps-per-dispatch of more than 1, or --data-on-device yes")
        step, steps = setup.train_stacked.step, arguments.steps_per_dispatch
        setup = dataclasses.replace(setup, train_stacked=Dispatcher(setup.devices, step, steps, arrays, loop=True))
    state, sums = setup.initial_state(), zero_sums(setup.metrics)
    state, sums = jax.block_until_ready(setup.train(state, sums, drawn[0]))

    bare, loop = [], []
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder), config)
        directory.create({})
        with Checkpoints(directory.checkpoint_directory) as checkpoints:
            run = TrainingLoop(setup, directory, checkpoints, console, time.perf_counter())
            run.restore()
            run.train(Stop(), until=1)
            for number in range(arguments.slices):
                console.print(f"slice {number + 1} of {arguments.slices}")
                started = time.perf_counter()
                for batch in drawn:
                    state, sums = setup.train(state, sums, batch)
                jax.block_until_ready((state, sums))
                bare.append((time.perf_counter() - started) / len(drawn))
                seconds, images = run.train_seconds, run.train_images
                run.train(Stop(), until=run.step + arguments.steps)
                steps = (run.train_images - images) / config.batch_size
                loop.append((run.train_seconds - seconds) / steps)
    ratio = statistics.median(b / a for a, b in zip(bare, loop, strict=True))
    result = {
        "recipe": arguments.recipe,
        "batch_size": config.batch_size,
        "bare_ms": 1e3 * statistics.median(bare),
        "loop_ms": 1e3 * statistics.median(loop),
        "data_on_device": arguments.data_on_device,
        "steps_per_dispatch": arguments.steps_per_dispatch,
        "speed_percent": 100 / ratio,
        "overhead_percent": 100 * (ratio - 1),
    }

    def show() -> None:
        print("| recipe | batch | data on the device | steps per call | bare step, ms | loop, ms | of the bare speed |")
        print("|---|--:|---|--:|--:|--:|--:|")
        print(
            f"| {result['recipe']} | {config.batch_size} | {arguments.data_on_device} | {config.steps_per_dispatch} | "
            f"{result['bare_ms']:.2f} | {result['loop_ms']:.2f} | {result['speed_percent']:.1f} % (median of pairs) |"
        )

    report(arguments, result, [result], show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
