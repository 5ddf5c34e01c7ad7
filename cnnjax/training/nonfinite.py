"""Losses and gradients that are not finite: the state never takes them in, and what was wrong is found out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from cnnjax.state import TrainState
from cnnjax.training.metrics import Metrics, Sums, means, zero_sums
from cnnjax.training.parallel import Devices, TrainStep

# Fields of the state that a step with a bad gradient leaves as they are.
KEPT = ("params", "batch_stats", "opt_state", "ema")


def skip_nonfinite(step: TrainStep, limit: int) -> TrainStep:
    """Return ``step`` with updates left out where the loss or the gradient is not finite.

    Such a step counts in ``state.nonfinite`` and in no metric. The one after ``limit`` of them stops the state: this
    and all further steps change nothing, not even ``state.step``, so that whoever looks later finds the state right
    before it. All that is part of the compiled step; without ``state.nonfinite``, ``step`` runs as it is.

    Source: optax's ``apply_if_finite``; differs: it goes by the loss too, and covers statistics and moving averages.

    Args:
      step: as `cnnjax.training.train_step`; its sums have ``loss_sum`` and ``gradient_norm_sum``.
      limit: steps to leave out.
    """

    def guarded(
        state: TrainState, batch: Mapping[str, jax.Array], *, axis_name: str | None = None
    ) -> tuple[TrainState, Sums]:
        new, sums = step(state, batch, axis_name=axis_name)
        if state.nonfinite is None:
            return new, sums
        bad = ~(jnp.isfinite(sums["loss_sum"]) & jnp.isfinite(sums["gradient_norm_sum"]))
        nonfinite = state.nonfinite + (bad & (state.nonfinite <= limit)).astype(jnp.int32)
        stopped = nonfinite > limit
        discard = bad | stopped

        def choose(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda before, after: jnp.where(discard, before, after), old, new)

        kept = {name: choose(getattr(state, name), getattr(new, name)) for name in KEPT}
        new = new.replace(step=jnp.where(stopped, state.step, new.step), nonfinite=nonfinite, **kept)
        return new, jax.tree.map(lambda value: jnp.where(discard, jnp.zeros_like(value), value), sums)

    return guarded


def probe(state: TrainState) -> TrainState:
    """Return a state whose next step adds the gradients to the parameters, instead of an update."""
    return state.replace(tx=optax.identity(), nonfinite=None)


def describe_bad_step(
    take: Callable[[Any, Any], tuple[Any, Any]],
    devices: Devices,
    state: TrainState,
    rate: Callable[[int], float],
    metrics: Metrics,
    note: str = "",
) -> str:
    """Say what was not finite in the step that stopped a state, by taking it again.

    Args:
      take: (state, sums) -> (state, sums), the step with that batch; may donate both.
      devices: where the state is.
      state: as `skip_nonfinite` left it, right before the step.
      rate: learning rate of a step, counted from 1.
      metrics: of the step.
      note: goes on from the numbers of the step.
    Returns:
      Loss, step, learning rate and gradient norm; the paths of the first gradients and parameters that are not finite.
    """
    before = jax.tree.map(np.array, devices.unreplicate(state).params)
    step = int(devices.unreplicate(state).step) + 1
    after, sums = take(probe(state), devices.replicate(zero_sums(metrics)))
    sums = jax.device_get(devices.unreplicate(sums))
    grads = jax.tree.map(lambda new, old: np.asarray(new) - old, devices.unreplicate(after).params, before)
    total = len(jax.tree.leaves(before))
    return (
        f"the loss is {means(sums, metrics)['loss']:.4g} at step {step} (learning rate {rate(step):.3g}, "
        f"gradient norm {float(sums['gradient_norm_sum']):.4g}{note}). "
        f"Gradients that are not finite: {name_first(nonfinite_paths(grads), total)}; "
        f"parameters: {name_first(nonfinite_paths(before), total)}"
    )


def nonfinite_paths(tree: Any) -> list[str]:
    """Return the paths of the arrays that hold infinities or what is no number, in the order of the network."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    bad = [path for path, leaf in flat.items() if not np.isfinite(np.asarray(leaf, np.float32)).all()]
    return sorted(bad, key=_depth)


def name_first(paths: list[str], total: int, count: int = 3) -> str:
    """Return the first paths in words."""
    if not paths:
        return "none"
    return f"{', '.join(paths[:count])}{', ...' * (len(paths) > count)} ({len(paths)} of {total})"


def _depth(path: str) -> tuple[Any, ...]:
    """Order paths as images pass them: the stem, the stages by number, and what ends the network."""
    top = path.partition("/")[0]
    rank = 0 if top == "stem" else 2 if top in ("head", "decoder") or top.startswith("aux") else 1
    return rank, [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", path)]
