"""Losses: one value per example, so that the caller decides which examples count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from cnnjax.training.metrics import Classification, Metrics, Regression

LossName = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"]
LOSSES = get_args(LossName)
# (outputs, batch) -> float32[batch].
LossFunction = Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]


def check_labels(labels: jax.Array, shape: tuple[int, ...]) -> None:
    """Raise unless labels belong to logits of ``shape``, (batch, classes), one by one.

    Nothing is broadcast: a label of one example would else be that of all.

    Raises:
      ValueError: neither whole numbers [batch] nor numbers [batch, classes].
    """
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if not (labels.shape == shape or (labels.shape == shape[:1] and whole)) or len(shape) != 2:
        raise ValueError(
            f"label must be int[{shape[0]}] or float{list(shape)} for outputs of shape {shape}, got "
            f"{labels.dtype}{list(labels.shape)}"
        )


def soft_labels(labels: jax.Array, num_classes: int, label_smoothing: float = 0.0) -> jax.Array:
    """Return float32[batch, classes]: 1 - s + s / K at the label and s / K elsewhere, for smoothing s and K classes.

    Source: Szegedy et al. 2015, arXiv:1512.00567, section 7.

    Args:
      labels: int[batch] from 0 to classes - 1, or float[batch, classes], probabilities, which are smoothed likewise.
      num_classes: K.
      label_smoothing: s, from 0 to 1.
    Raises:
      ValueError: labels of another shape or type.
    """
    check_labels(labels, (len(labels) if labels.ndim else 0, num_classes))
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    labels = labels.astype(jnp.float32)
    return labels if label_smoothing == 0 else optax.smooth_labels(labels, label_smoothing)


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Return -sum(target * log softmax(logits)) of each example, with the target of `soft_labels`.

    Args:
      logits: float[batch, classes], 2 classes or more.
      labels: int[batch], or float[batch, classes] that sum to 1.
      label_smoothing: from 0 to 1.
    Returns:
      float32[batch], in nats: 0 for int labels below 0 (no label), and NaN for those of ``classes`` or more.
    Raises:
      ValueError: labels of another shape or type, or a single logit.
    """
    check_labels(labels, logits.shape)
    if logits.shape[-1] < 2:
        raise ValueError(
            "cross_entropy of one logit is 0 whatever the label; give the network 2 classes, or take "
            "binary_cross_entropy"
        )
    logits = logits.astype(jnp.float32)
    if label_smoothing == 0 and labels.ndim == 1:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    else:
        losses = optax.softmax_cross_entropy(logits, soft_labels(labels, logits.shape[-1], label_smoothing))
    return _of_labelled(losses, labels, logits.shape[-1])


def _of_labelled(losses: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Return 0 for int labels below 0, and NaN for those that no class has."""
    if labels.ndim != 1:
        return losses
    return jnp.where(labels < 0, 0.0, jnp.where(labels < num_classes, losses, jnp.nan))


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Return the mean over classes of -t log sigmoid(logit) - (1 - t) log(1 - sigmoid(logit)), each class by itself.

    Serves images with several labels, and classification as in Wightman et al. 2021, arXiv:2110.00476, section 2.

    Args:
      logits: float[batch, classes]. A single logit is that of class 1 against class 0.
      labels: int[batch], or float[batch, classes] from 0 to 1.
      label_smoothing: s, from 0 to 1: t becomes (1 - s) t + s / K, as in `soft_labels`; of a single logit K is 2.
    Returns:
      float32[batch], nats; of int labels that no class has as in `cross_entropy`.
    Raises:
      ValueError: labels of another shape or type.
    """
    check_labels(labels, logits.shape)
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    if classes == 1:
        single = labels.reshape(-1, 1).astype(jnp.float32)
        targets = single if label_smoothing == 0 else (1 - label_smoothing) * single + label_smoothing / 2
        losses = optax.sigmoid_binary_cross_entropy(logits, targets)[:, 0]
        return _of_labelled(losses, labels, 2)
    targets = soft_labels(labels, classes, label_smoothing)
    return _of_labelled(optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1), labels, classes)


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


def huber_error(outputs: jax.Array, target: jax.Array, *, delta: float = 1.0) -> jax.Array:
    """Return the mean of e^2 / 2 where |e| <= delta and delta (|e| - delta / 2) elsewhere, e = output - target.

    Source: Huber 1964, Robust estimation of a location parameter. See `squared_error`.
    """
    return _mean_over_outputs(optax.huber_loss(_error(outputs, target), delta=delta))


def loss_function(loss: LossName | LossFunction, label_smoothing: float = 0.0) -> LossFunction:
    """Return (outputs, batch) -> float32[batch], of a name or of such a function itself.

    ``cross_entropy`` and ``binary_cross_entropy`` compare logits with ``label``; ``mse``, ``mae`` and ``huber`` compare
    outputs with ``target``.

    Raises:
      ValueError: an unknown name, or smoothing of what has no labels.
    """
    classifiers = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}
    regressions = {"mse": squared_error, "mae": absolute_error, "huber": huber_error}
    if isinstance(loss, str) and loss in classifiers:
        compare = partial(classifiers[loss], label_smoothing=label_smoothing)
        return lambda outputs, batch: compare(outputs, batch["label"])
    if label_smoothing:
        raise ValueError(f"label_smoothing must be 0 with loss {loss!r}, got {label_smoothing}")
    if not isinstance(loss, str):
        return loss
    if loss not in regressions:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    function = regressions[loss]
    return lambda outputs, batch: function(outputs, batch["target"])


def default_metrics(loss: LossName | LossFunction) -> Metrics:
    """Return what is measured beside a loss unless something else is asked for."""
    return Regression() if loss in ("mse", "mae", "huber") else Classification()


def _error(outputs: jax.Array, target: jax.Array) -> jax.Array:
    if outputs.shape != target.shape:
        raise ValueError(f"outputs and target must have one shape, got {outputs.shape} and {target.shape}")
    return outputs.astype(jnp.float32) - target.astype(jnp.float32)


def _mean_over_outputs(values: jax.Array) -> jax.Array:
    return values.reshape(values.shape[0], -1).mean(1)
