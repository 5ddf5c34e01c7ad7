"""Time training and inference steps of networks on the devices of this machine.

    python benchmarks/step_time.py --models resnet50 mobilenet_v2 --batch-size 8
    python benchmarks/step_time.py --models "resnet*" --batch-size 128 --dtype bfloat16 --mode train --parallel pmap

Every network takes the same steps: batches of random images that lie on the devices already; SGD with momentum and
weight decay for training, whose state is donated. The first step is timed by itself, compilation apart from it. Each
step is waited for, and the median is given. FLOPs are the compiler's count, and their share of the device's peak is
printed where benchmarks/devices.py knows it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from devices import find
from reporting import add_flags, report
from rich.console import Console

from cnnjax.data import Preprocess
from cnnjax.data.augment import Mirror
from cnnjax.models import create_model, list_models, model_info
from cnnjax.training import Devices, TrainState, eval_step, for_platform, make_optimizer, train_step
from cnnjax.training.metrics import zero_sums
from cnnjax.training.parallel import ParallelMode

MODES = ("train", "inference")


def random_batch(
    devices: Devices, name: str, batch_size: int, image_size: int | None, seed: int
) -> Mapping[str, jax.Array]:
    """Return a batch on the devices: uint8 images of the network's size, and labels."""
    info = model_info(name)
    height, width = (image_size, image_size) if image_size else info.input_size
    random = np.random.default_rng(seed)
    return devices.put(
        {
            "image": random.integers(0, 256, (batch_size, height, width, info.channels), np.uint8),
            "label": random.integers(0, info.num_classes or 1, batch_size, np.int32),
        }
    )


def time_calls(
    step: Callable[[], Any], steps: int, warmup: int, console: Console, label: str
) -> tuple[float, list[float]]:
    """Return the seconds of the first call, and of each of ``steps`` calls after ``warmup`` more."""
    seconds = []
    for number in range(1 + warmup + steps):
        started = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - started)
        if number == 0:
            console.print(f"{label}: first step {seconds[0]:.2f} s; {warmup} to warm up, then {steps} steps")
    return seconds[0], seconds[1 + warmup :]


def measure(name: str, mode: str, arguments: argparse.Namespace, devices: Devices, console: Console) -> dict[str, Any]:
    """Return what one network's step costs."""
    info = model_info(name)
    label = f"{name}, {mode}"
    preprocess = Preprocess(info.mean, info.std, (Mirror(),))
    model = for_platform(create_model(name, dtype=jnp.dtype(arguments.dtype)), jax.default_backend())
    tx = make_optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-4)
    batch = random_batch(devices, name, arguments.batch_size, arguments.image_size, arguments.seed)
    shape = batch["image"].shape[-3:]
    console.print(f"{label}: drawing parameters")
    state = devices.replicate(TrainState.create(model, tx, jax.random.key(arguments.seed), jnp.zeros((1, *shape))))
    sums = devices.replicate(zero_sums())

    console.print(f"{label}: compiling")
    started = time.perf_counter()
    if mode == "train":
        compiled = devices.compile_train(partial(train_step, preprocess=preprocess)).lower(state, sums, batch).compile()
    else:
        compiled = devices.compile_eval(partial(eval_step, preprocess=preprocess)).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - started

    def train() -> Any:
        nonlocal state, sums
        state, sums = compiled(state, sums, batch)
        return state, sums

    def inference() -> Any:
        return compiled(state, batch)

    first, seconds = time_calls(
        train if mode == "train" else inference, arguments.steps, arguments.warmup, console, label
    )
    median = statistics.median(seconds)
    device = jax.local_devices()[0]
    flops = (compiled.cost_analysis() or {}).get("flops")
    chip = find(device.device_kind)
    peak = chip and chip.peak(arguments.dtype)
    memory = device.memory_stats() or {}
    return {
        "model": name,
        "mode": mode,
        "device": device.device_kind,
        "devices": devices.count,
        "batch_size": arguments.batch_size,
        "image_size": list(shape[:2]),
        "dtype": arguments.dtype,
        "compile_seconds": compile_seconds,
        "first_step_seconds": first,
        "step_seconds": median,
        "images_per_second": arguments.batch_size / median,
        "flops_per_second": flops and flops / median,
        "peak_share": flops and peak and flops / median / peak,
        "program_bytes": program_bytes(compiled),
        "peak_memory_bytes": memory.get("peak_bytes_in_use"),
    }


def program_bytes(compiled: Any) -> int:
    """Return the memory of one device that a compiled step needs: arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def print_table(results: list[dict[str, Any]]) -> None:
    """Print the results as a table."""
    first = results[0]
    print(f"{first['devices']} x {first['device']}, {first['dtype']}, global batch {first['batch_size']}\n")
    print(
        "| network | mode | pixels | compile, s | first step, ms | step, ms | images/s | GFLOP/s | peak | memory, MiB |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for result in results:
        flops, share = result["flops_per_second"], result["peak_share"]
        memory = result["peak_memory_bytes"] or result["program_bytes"]
        print(
            f"| {result['model']} | {result['mode']} | {result['image_size'][0]} | {result['compile_seconds']:.1f} | "
            f"{1e3 * result['first_step_seconds']:.1f} | {1e3 * result['step_seconds']:.1f} | "
            f"{result['images_per_second']:.1f} | {'unknown' if flops is None else f'{flops / 1e9:.1f}'} | "
            f"{'unknown' if share is None else f'{100 * share:.0f} %'} | {memory / 2**20:.0f} |"
        )
    print("\nFLOP/s and memory are of one device; memory is the peak in use where the device counts it, else what the")
    print("compiler plans for the step.")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"], help="classifiers, by name or pattern")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=8, help="images per step, over all devices")
    parser.add_argument("--image-size", type=int, help="pixels; default: what each network was published for")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--parallel", choices=get_args(ParallelMode), default="auto", help="as in experiments/train.py")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps after the first that are not counted")
    parser.add_argument("--seed", type=int, default=0)
    add_flags(parser)
    arguments = parser.parse_args()
    if arguments.batch_size < 1 or arguments.steps < 1 or arguments.warmup < 0:
        parser.error("--batch-size and --steps must be at least 1, and --warmup at least 0")
    devices = Devices.choose(arguments.parallel)
    names: list[str] = []
    try:
        devices.check_batch_size(arguments.batch_size)
        for pattern in arguments.models:
            found = [name for name in list_models(pattern) if model_info(name).task == "classification"]
            if not found:
                model_info(pattern)  # Names the nearest ones.
                raise ValueError(f"--models: {pattern!r} is no classifier; see cnnjax.list_models()")
            names += [name for name in found if name not in names]
    except ValueError as error:
        parser.error(str(error))
    console = Console(stderr=True)
    results = []
    for name in names:
        for mode in MODES if arguments.mode == "both" else (arguments.mode,):
            results.append(measure(name, mode, arguments, devices, console))
    report(arguments, results, results, lambda: print_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
