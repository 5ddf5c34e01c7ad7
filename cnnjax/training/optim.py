"""Optimizers and learning-rate schedules, from optax, by name."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import optax

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine", "multistep"]
OPTIMIZERS = get_args(OptimizerName)
SCHEDULES = get_args(ScheduleName)


def make_schedule(
    name: ScheduleName,
    learning_rate: float,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    milestones: tuple[float, ...] = (0.5, 0.75),
    decay: float = 0.1,
) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    Args:
      name: ``constant``; ``cosine``, to 0 at the end; ``multistep``, times ``decay`` at each milestone.
      learning_rate: after warm-up.
      num_steps: length of the run.
      warmup_steps: steps of linear rise from 0.
      milestones: as fractions of the run.
      decay: factor at a milestone.
    """
    after = num_steps - warmup_steps
    if after < 1:
        raise ValueError(f"warm-up of {warmup_steps} steps leaves nothing of a run of {num_steps} steps; shorten it")
    if name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, after)
    elif name == "multistep":
        steps = [round(fraction * num_steps) - warmup_steps for fraction in milestones]
        schedule = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(steps, decay))
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if warmup_steps == 0:
        return schedule
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def decayed_leaves(params: Any) -> Any:
    """Return a mask that leaves biases and normalisation (vectors) out of weight decay."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
    name: OptimizerName, learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return an optimizer.

    Args:
      name: ``sgd`` (with heavy-ball momentum), ``adam`` or ``adamw``.
      learning_rate: a number or a schedule.
      momentum: of ``sgd``.
      weight_decay: of weights, not of biases and norms; added to the gradient by ``sgd`` and ``adam``, to the update by
        ``adamw``.
    """
    if name == "adamw":
        return optax.adamw(learning_rate, weight_decay=weight_decay, mask=decayed_leaves)
    optimizers = {"sgd": lambda: optax.sgd(learning_rate, momentum), "adam": lambda: optax.adam(learning_rate)}
    if name not in optimizers:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    if weight_decay == 0:
        return optimizers[name]()
    return optax.chain(optax.add_decayed_weights(weight_decay, decayed_leaves), optimizers[name]())
