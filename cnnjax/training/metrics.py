"""Metrics as sums over examples, so that they add up over batches, devices and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# float32[] sum of losses, int32[] examples classified correctly, int32[] examples.
Sums = dict[str, jax.Array]


def zero_sums() -> Sums:
    """Return the sums over no examples."""
    return {
        "loss_sum": jnp.zeros((), jnp.float32),
        "correct": jnp.zeros((), jnp.int32),
        "count": jnp.zeros((), jnp.int32),
    }


def classification_sums(losses: jax.Array, logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Return the sums over the examples of a batch that ``mask`` (bool[batch]) marks as real."""
    return {
        "loss_sum": jnp.where(mask, losses, 0).sum(),
        "correct": (mask & (logits.argmax(-1) == labels)).sum(dtype=jnp.int32),
        "count": mask.sum(dtype=jnp.int32),
    }


def means(sums: Mapping[str, Any], *, classes: bool = True) -> dict[str, float]:
    """Return mean loss and accuracy (from 0 to 1) of ``sums``; without ``classes``, the loss alone."""
    count = max(int(sums["count"]), 1)
    loss = {"loss": float(sums["loss_sum"]) / count}
    return loss | {"accuracy": int(sums["correct"]) / count} if classes else loss
