"""Compare training steps with frozen parts with the full step and with the forward pass.

    python benchmarks/frozen_steps.py                                  # resnet50, 224 pixels, 8 images
    python benchmarks/frozen_steps.py --model resnet18 --batch-size 32
    python benchmarks/frozen_steps.py --measure time                   # without the processes that measure memory

All take turns, a step each, so that a machine whose speed drifts is fair to all; the ratios are medians over the turns.

Planned memory is what the compiler plans for temporaries; the optimizer's state (SGD with momentum) is in elements.
Measured memory (Linux only) is that of a process of its own for each row: how far the resident set rises (VmHWM, set
back by /proc/self/clear_refs) over where it was when network, state and batch were built and the program compiled
(VmRSS), in two steps. It is temporaries, gradients and outputs that take no donated place; the parameters, their
statistics, the optimizer's state and the batch lie below the line.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from reporting import add_flags, report
from rich.console import Console

from cnnjax import finetune
from cnnjax.models import create_model, model_info
from cnnjax.training import train_step

FORWARD, FULL = "forward pass", "everything trains"
# What is frozen, by row of the table.
FROZEN: dict[str, list[str]] = {
    FULL: [],
    "stages 1 to 3 frozen": ["stem", "stage[1-3]"],
    "head alone trains": ["stem", "stage*"],
}
# The first may allocate what is kept; donated buffers come round in the second.
STEPS_FOR_MEMORY = 2


def convolutions(compiled: Any) -> int:
    """Return the number of convolutions that XLA has left in a program."""
    lines = compiled.as_text().splitlines()
    return sum(" convolution(" in line or "$conv" in line for line in lines)


def products(compiled: Any) -> int:
    """Return the number of matrix products in a program; on CPUs, convolutions of one pixel are such."""
    return sum(" dot(" in line or "$matmul" in line for line in compiled.as_text().splitlines())


def build(given: argparse.Namespace) -> tuple[nn.Module, Mapping[str, Any], dict[str, jax.Array]]:
    """Return the network, its variables and a batch."""
    info = model_info(given.model)
    size = (given.image_size, given.image_size) if given.image_size else info.input_size
    model = create_model(given.model)
    random = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(random.standard_normal((given.batch_size, *size, info.channels)), jnp.float32),
        "label": jnp.asarray(random.integers(0, info.num_classes or 1000, given.batch_size), jnp.int32),
    }
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch["image"])
    # The values do not matter for time, as long as they stay finite.
    variables = {
        "params": jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32) * 0.01, shapes["params"]),
        "batch_stats": jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes.get("batch_stats", {})),
    }
    return model, jax.tree.map(jnp.asarray, variables), batch


def prepare(name: str, model: nn.Module, variables: Mapping[str, Any], batch: dict[str, jax.Array]) -> Any:
    """Return what a row computes, as a function without arguments, and what is known of it before it runs."""
    if name == FORWARD:
        forward: Any = jax.jit(model.apply).lower(variables, batch["image"]).compile()
        return lambda: jax.block_until_ready(forward(variables, batch["image"])), describe(forward, 0, 0)
    frozen = FROZEN[name]
    state = finetune.train_state(model, variables, optax.sgd(1e-3, 0.9), jax.random.key(0), frozen=frozen)
    trainable = finetune.describe(state.params, frozen=frozen).trainable
    step = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
    row = describe(step, trainable, sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)))
    return stepper(step, state, batch), row


def resident(field: str) -> float:
    """Return VmRSS or VmHWM of this process in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def measured_peak(name: str, given: argparse.Namespace) -> float:
    """Return by how many MiB the resident set of this process rises in the steps of a row, see above."""
    model, variables, batch = build(given)
    call, _ = prepare(name, model, variables, batch)
    # The state has copies of its own.
    if name != FORWARD:
        del variables
    gc.collect()
    # What the compiler has freed goes back to the system, so that the steps do not find it for nothing.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(STEPS_FOR_MEMORY):
        call()
    return resident("VmHWM") - before


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a classifier with stages 1 to 4")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, help="pixels (default: the network's)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--measure", nargs="+", choices=["time", "memory"], default=["time", "memory"], help="(default: both)"
    )
    add_flags(parser)
    given = parser.parse_args()
    if given.batch_size < 1 or given.turns < 1:
        parser.error("--batch-size and --turns must be at least 1")
    if "memory" in given.measure and not sys.platform.startswith("linux"):
        parser.error("memory is measured by Linux's /proc; take --measure time")
    console = Console(stderr=True)
    rows: dict[str, dict[str, Any]] = {name: {} for name in (FORWARD, *FROZEN)}
    if "memory" in given.measure:
        for name, row in rows.items():
            console.print(f"{name}: memory, in a process of its own")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row["measured_mib"] = pool.apply(measured_peak, (name, given))
    model, variables, batch = build(given)
    calls: dict[str, Callable[[], None]] = {}
    for name, row in rows.items():
        console.print(f"{name}: compiling")
        calls[name], known = prepare(name, model, variables, batch)
        row |= known
    if "time" in given.measure:
        take_turns(calls, rows, given.turns, console)
    size = batch["image"].shape[1:3]
    numbers = {"model": given.model, "batch_size": given.batch_size, "size": size, "rows": rows}
    table = [{"step": name} | row for name, row in rows.items()]
    report(given, numbers, table, lambda: show(given, size, rows))
    return 0


def show(given: argparse.Namespace, size: tuple[int, ...], rows: Mapping[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{given.model}, {size[0]}x{size[1]} pixels, {given.batch_size} images, {jax.devices()[0].device_kind}\n")
    columns: dict[str, tuple[str, str]] = {
        "milliseconds": ("ms", ".0f"),
        "of_forward": ("of the forward pass", ".2f"),
        "of_full": ("of the full step", ".2f"),
        "convolutions": ("convolutions", ""),
        "products": ("matrix products", ""),
        "trainable": ("trainable", ","),
        "optimizer_elements": ("optimizer state", ","),
        "temporary_mib": ("planned MiB", ".0f"),
        "measured_mib": ("measured MiB", ".0f"),
    }
    shown = {key: column for key, column in columns.items() if key in rows[FORWARD]}
    print("| step | " + " | ".join(title for title, _ in shown.values()) + " |")
    print("|---" + "|--:" * len(shown) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(format(row[key], form) for key, (_, form) in shown.items()) + " |")


def take_turns(
    calls: Mapping[str, Callable[[], None]], rows: Mapping[str, dict[str, Any]], turns: int, console: Console
) -> None:
    """Let all take a step each, ``turns`` times after one to warm up, and note the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
        console.print(f"turn {turn} of {turns}" + " (to warm up)" * (turn == 0))
    for name, row in rows.items():
        times = seconds[name][1:]
        row["milliseconds"] = 1e3 * statistics.median(times)
        for other, key in ((FORWARD, "of_forward"), (FULL, "of_full")):
            row[key] = statistics.median(a / b for a, b in zip(times, seconds[other][1:], strict=True))


def describe(compiled: Any, trainable: int, optimizer_elements: int) -> dict[str, Any]:
    """Return what is known of a program before it runs."""
    return {
        "convolutions": convolutions(compiled),
        "products": products(compiled),
        "trainable": trainable,
        "optimizer_elements": optimizer_elements,
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
    }


def stepper(step: Any, state: Any, batch: Any) -> Callable[[], None]:
    """Return a function that takes the next step and waits for it."""

    def call() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch))

    return call


if __name__ == "__main__":
    sys.exit(main())
