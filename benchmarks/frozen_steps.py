"""Compare training steps with frozen parts with the full step and with the forward pass.

    python benchmarks/frozen_steps.py                                  # resnet50, 224 pixels, 8 images
    python benchmarks/frozen_steps.py --model resnet18 --batch-size 32

All take turns, a step each, so that a machine whose speed drifts is fair to all; the ratios are medians over the turns.
Memory is what the compiler plans for temporaries, and the optimizer's state (SGD with momentum) in elements.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from cnnjax import finetune
from cnnjax.models import create_model, model_info
from cnnjax.training import train_step

# What is frozen, by row of the table.
FROZEN: dict[str, list[str]] = {
    "everything trains": [],
    "stages 1 to 3 frozen": ["stem", "stage[1-3]"],
    "head alone trains": ["stem", "stage*"],
}
FORWARD = "forward pass"


def convolutions(compiled: Any) -> int:
    """Return the number of convolutions that XLA has left in a program."""
    lines = compiled.as_text().splitlines()
    return sum(" convolution(" in line or "$conv" in line for line in lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a classifier with stages 1 to 4")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, help="pixels (default: the network's)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    if given.batch_size < 1 or given.turns < 1:
        parser.error("--batch-size and --turns must be at least 1")
    console = Console(stderr=True)
    info = model_info(given.model)
    size = (given.image_size, given.image_size) if given.image_size else info.input_size
    model = create_model(given.model, num_classes=info.num_classes or 1000)
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
    variables = jax.tree.map(jnp.asarray, variables)

    calls: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    console.print(f"{FORWARD}: compiling")
    forward = jax.jit(model.apply).lower(variables, batch["image"]).compile()
    calls[FORWARD] = lambda: jax.block_until_ready(forward(variables, batch["image"]))
    rows[FORWARD] = describe(forward, 0, 0)
    for name, frozen in FROZEN.items():
        console.print(f"{name}: compiling")
        state = finetune.train_state(model, variables, optax.sgd(1e-3, 0.9), jax.random.key(0), frozen=frozen)
        trainable = finetune.describe(state.params, frozen=frozen).trainable
        step = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
        rows[name] = describe(step, trainable, sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)))
        calls[name] = stepper(step, state, batch)

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(given.turns + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
        console.print(f"turn {turn} of {given.turns}" + " (to warm up)" * (turn == 0))
    for name, row in rows.items():
        times = seconds[name][1:]
        row["milliseconds"] = 1e3 * statistics.median(times)
        for other, key in ((FORWARD, "of_forward"), ("everything trains", "of_full")):
            row[key] = statistics.median(a / b for a, b in zip(times, seconds[other][1:], strict=True))
    if given.json:
        print(json.dumps({"model": given.model, "batch_size": given.batch_size, "size": size, "rows": rows}))
        return 0
    print(f"{given.model}, {size[0]}x{size[1]} pixels, {given.batch_size} images, {jax.devices()[0].device_kind}\n")
    print("| step | ms | of the forward pass | of the full step | convolutions | trainable | optimizer state | MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, row in rows.items():
        counts = f"{row['convolutions']} | {row['trainable']:,} | {row['optimizer_elements']:,}"
        measured = f"{row['milliseconds']:.0f} | {row['of_forward']:.2f} | {row['of_full']:.2f}"
        print(f"| {name} | {measured} | {counts} | {row['temporary_mib']:.0f} |")
    return 0


def describe(compiled: Any, trainable: int, optimizer_elements: int) -> dict[str, Any]:
    """Return what is known of a program before it runs."""
    return {
        "convolutions": convolutions(compiled),
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
