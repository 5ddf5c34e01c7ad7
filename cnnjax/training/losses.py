"""Losses: one value an example, so that the caller decides which examples count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Return -sum(target * log softmax(logits)) of each example.

    The target is 1 - s + s / K at the label and s / K elsewhere, for smoothing s and K classes.

    Source: Szegedy et al. 2015, arXiv:1512.00567, section 7 (smoothing).

    Args:
      logits: float[batch, classes].
      labels: int[batch] from 0 to classes - 1.
      label_smoothing: from 0 to 1.
    Returns:
      float32[batch], nats.
    """
    logits = logits.astype(jnp.float32)
    if label_smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)
