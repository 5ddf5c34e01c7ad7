"""Several steps in one call of the device, and training examples that live there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.state import TrainState
from cnnjax.training.metrics import Sums
from cnnjax.training.parallel import Devices, TrainStep

# Of one call where the number of its steps is left open: operations, which take a fast accelerator some 10 ms, in which
# the host prepares the next call; and steps, so that their batches stay few.
CALL_FLOPS = 5e11
MOST_STEPS = 64


def steps_of_call(flops: float) -> int:
    """Return how many steps one call of an accelerator is to take, from 1 to 64.

    Decided by the size of a step alone, without a clock, so that each start of a run compiles the same program.

    Args:
      flops: floating-point operations of a step on one device.
    """
    return int(min(max(CALL_FLOPS // max(flops, 1.0), 1), MOST_STEPS))


class Dispatcher:
    """Takes up to a fixed number of steps with one call, so that small networks do not wait for the host.

    The program loops over the batches it is given; it is compiled once, and how steps are grouped changes no bit. XLA's
    programs for CPUs are several times slower inside a loop (see ``benchmarks/README.md``), so there each step is a
    call of its own, as it is with ``steps=1``.

    Args:
      devices: where.
      step: as `cnnjax.training.train_step`.
      steps: most steps of a call.
      data: arrays of all training examples, which are put on every device; batches are then ``index`` int32[batch],
        their places, and what else is known of them. Every process has all. None: batches are the examples.
      loop: loop inside the program; None: if there are several steps, except on CPUs.
    Attributes:
      loops: whether a call takes several steps.
    """

    def __init__(
        self,
        devices: Devices,
        step: TrainStep,
        steps: int,
        data: Mapping[str, np.ndarray] | None = None,
        *,
        loop: bool | None = None,
    ) -> None:
        self.devices = devices
        self.step = step
        self.steps = steps
        self._data = devices.replicate(dict(data or {}))
        self.loops = (steps > 1 and jax.default_backend() != "cpu") if loop is None else loop
        self._compiled = devices.compile_stacked(partial(_take_steps if self.loops else _take_first, step))

    def __call__(self, state: Any, sums: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[Any, Any]:
        """Take one step per batch; return the new state, and the sums with those of the batches added.

        Args:
          state, sums: replicated; donated.
          batches: host batches (in each process its part of them), from 1 to ``steps``.
        """
        if self.loops:
            # What fills up the stack is not looked at.
            filled = [*batches, *[batches[-1]] * (self.steps - len(batches))]
            stacked = {name: np.stack([batch[name] for batch in filled]) for name in filled[0]}
            return self._call(state, sums, stacked, len(batches))
        for batch in batches:
            state, sums = self._call(state, sums, {name: array[None] for name, array in batch.items()}, 1)
        return state, sums

    def _call(self, state: Any, sums: Any, stacked: Mapping[str, np.ndarray], count: int) -> tuple[Any, Any]:
        return self._compiled(state, sums, self._data, self.devices.shard_stacked(stacked), np.int32(count))


def _take_step(
    step: TrainStep, carry: tuple[TrainState, Sums], data: Any, batch: Any, axis_name: str | None
) -> tuple[TrainState, Sums]:
    if data:
        places = batch["index"]
        known = {name: leaf for name, leaf in batch.items() if name != "index"}
        batch = known | {name: jnp.take(leaf, places, axis=0) for name, leaf in data.items()}
    # Otherwise XLA would fuse reading the batch into the step, which may change its rounding.
    batch = jax.lax.optimization_barrier(batch)
    state, sums = carry
    state, new = step(state, batch, axis_name=axis_name)
    return state, jax.tree.map(jnp.add, sums, new)


def _take_steps(
    step: TrainStep, state: TrainState, sums: Sums, data: Any, batches: Any, count: jax.Array, *, axis_name: str | None
) -> tuple[TrainState, Sums]:
    def take(number: jax.Array, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        batch = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), batches)
        return _take_step(step, carry, data, batch, axis_name)

    return jax.lax.fori_loop(0, count, take, (state, sums))


def _take_first(
    step: TrainStep, state: TrainState, sums: Sums, data: Any, batches: Any, count: jax.Array, *, axis_name: str | None
) -> tuple[TrainState, Sums]:
    return _take_step(step, (state, sums), data, jax.tree.map(lambda leaf: leaf[0], batches), axis_name)
