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


def squared_error(outputs: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean of (output - target)^2 over the outputs of each example.

    Args:
      outputs, target: float[batch, outputs], or any other equal shapes.
    Returns:
      float32[batch].
    Raises:
      ValueError: the shapes differ.
    """
    return _mean_over_outputs(jnp.square(_error(outputs, target)))


def absolute_error(outputs: jax.Array, target: jax.Array) -> jax.Array:
    """Return the mean of |output - target| over the outputs of each example; see `squared_error`."""
    return _mean_over_outputs(jnp.abs(_error(outputs, target)))


def _error(outputs: jax.Array, target: jax.Array) -> jax.Array:
    if outputs.shape != target.shape:
        raise ValueError(f"outputs and target must have one shape, got {outputs.shape} and {target.shape}")
    return outputs.astype(jnp.float32) - target.astype(jnp.float32)


def _mean_over_outputs(values: jax.Array) -> jax.Array:
    return values.reshape(values.shape[0], -1).mean(1)
