"""Labels of pixels: losses, one value per example, and the scores that a confusion matrix gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.training.metrics import Sums


def pixel_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy of each example, mean over its labelled pixels.

    Args:
      logits: float[batch, height, width, classes].
      labels: int[batch, height, width] from 0 to classes - 1; pixels below 0 count nowhere.
    Returns:
      float32[batch], nats; 0 where no pixel is labelled.
    Raises:
      ValueError: the shapes do not fit each other.
    """
    labelled = _labelled(logits, labels)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), jnp.where(labelled, labels, 0))
    count = jnp.maximum(labelled.sum((1, 2), dtype=jnp.int32), 1).astype(jnp.float32)
    return jnp.where(labelled, losses, 0).sum((1, 2)) / count


def dice_loss(logits: jax.Array, labels: jax.Array, *, smooth: float = 1.0) -> jax.Array:
    """Return 1 minus the soft Dice coefficient of each example, averaged over all classes but the background.

    (2 sum(u v) + smooth) / (sum(u) + sum(v) + smooth) for each class from 1 on, u its softmax and v 1 at its pixels:
    small objects weigh as much as large ones, unlike in the cross-entropy of pixels. Class 0 is background and left
    out: where objects are small, it would pull towards background everywhere, and there the slope is 0.

    Source: Milletari et al. 2016, arXiv:1606.04797, section 3, of one foreground; differs: no squares in the
    denominator, as in Isensee et al. 2018, arXiv:1809.10486, section 2.2, which differs in turn: it counts background,
    and its sums are over the batch. With ``smooth``, a class that is neither present nor predicted counts as perfect.

    Args:
      logits: float[batch, height, width, classes], 2 classes or more.
      labels: int[batch, height, width] from 0 to classes - 1; pixels below 0 count nowhere.
      smooth: pixels, above 0.
    Returns:
      float32[batch] from 0 to 1.
    Raises:
      ValueError: the shapes do not fit each other, or there are fewer than 2 classes.
    """
    labelled = _labelled(logits, labels)[..., None]
    if logits.shape[-1] < 2:
        raise ValueError(f"the Dice loss needs a background and 1 class or more, got logits {logits.shape}")
    probabilities = jnp.where(labelled, jax.nn.softmax(logits.astype(jnp.float32)), 0)
    truth = jnp.where(labelled, jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32), 0)
    shared = (probabilities * truth).sum((1, 2))
    return 1 - ((2 * shared + smooth) / (probabilities.sum((1, 2)) + truth.sum((1, 2)) + smooth))[:, 1:].mean(-1)


def cross_entropy_and_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return `pixel_cross_entropy` plus `dice_loss` of each example (as Isensee et al. 2018 do): float32[batch]."""
    return pixel_cross_entropy(logits, labels) + dice_loss(logits, labels)


def _labelled(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if logits.ndim != 4 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            "logits [batch, height, width, classes] need one label a pixel, got logits "
            f"{logits.shape} and labels {labels.shape}; crop or pad one of them"
        )
    return labels >= 0


def confusion_matrix(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Count the pixels of each class by the class they are taken for; matrices of batches and devices add up.

    Args:
      logits: float[batch, height, width, classes].
      labels: int[batch, height, width] from 0 to classes - 1; pixels below 0 count nowhere.
      mask: bool[batch], which examples are real.
    Returns:
      int32[classes, classes]: rows are true, columns predicted classes.
    """
    classes = logits.shape[-1]
    counted = mask[:, None, None] & (labels >= 0)
    # What does not count falls into one bin more, which is cut off.
    cells = jnp.where(counted, labels * classes + logits.argmax(-1).astype(labels.dtype), classes**2)
    return jnp.bincount(cells.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


def segmentation_scores(confusion: Any) -> dict[str, float]:
    """Return the scores that follow from a confusion matrix of pixels, each from 0 to 1.

    For each class, IoU = TP / (TP + FP + FN) and Dice = 2 TP / (2 TP + FP + FN).

    Args:
      confusion: int[classes, classes], see `confusion_matrix`.
    Returns:
      ``iou`` and ``dice``, means over the classes that are present or predicted, background (class 0) included;
      ``foreground_iou`` and ``foreground_dice``, without it; ``pixel_accuracy``.
    """
    confusion = np.asarray(confusion).astype(np.int64)
    true_positives = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - true_positives
    there = either > 0
    iou = np.where(there, true_positives / np.maximum(either, 1), np.nan)
    dice = np.where(there, 2 * true_positives / np.maximum(either + true_positives, 1), np.nan)

    def mean(values: np.ndarray) -> float:
        # Nothing to find and nothing found is right.
        return 1.0 if np.isnan(values).all() else float(np.nanmean(values))

    return {
        "iou": mean(iou),
        "dice": mean(dice),
        "foreground_iou": mean(iou[1:]),
        "foreground_dice": mean(dice[1:]),
        "pixel_accuracy": float(true_positives.sum() / max(confusion.sum(), 1)),
    }


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Measure how well pixels are labelled, for ``metrics`` of `train_step` and `eval_step`; see `segmentation_scores`.

    The counts of an epoch have to stay below 2^31 pixels.

    Attributes:
      num_classes: background, class 0, included.
    """

    num_classes: int

    def zeros(self) -> Sums:
        """Return the sums over no examples."""
        return {"confusion": jnp.zeros((self.num_classes, self.num_classes), jnp.int32)}

    def sums(self, outputs: jax.Array, batch: Mapping[str, jax.Array], mask: jax.Array) -> Sums:
        """Count pixels; ``outputs`` are float[batch, height, width, classes]."""
        return {"confusion": confusion_matrix(outputs, batch["label"], mask)}

    def means(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return the scores over all pixels of all examples."""
        return dict(segmentation_scores(sums["confusion"]))
