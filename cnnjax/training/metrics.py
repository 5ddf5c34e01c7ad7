"""Metrics as sums over examples, so that they add up over batches, devices and processes.

Every task sums ``loss_sum`` float32[], ``count`` int32[] (examples), and in training ``gradient_norm_sum`` float32[]
over ``steps`` int32[]; what else it sums is a `Metrics` object's to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]


class Metrics(Protocol):
    """What is measured besides the loss. Hashable, so that a compiled step can close over it."""

    def zeros(self) -> Sums:
        """Return the sums over no examples."""

    def sums(self, outputs: jax.Array, batch: Mapping[str, jax.Array], mask: jax.Array) -> Sums:
        """Return the sums over the examples of a batch that ``mask`` (bool[batch]) marks as real."""

    def means(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return the metrics by name, of sums over ``count`` examples."""


@dataclasses.dataclass(frozen=True)
class Classification:
    """Accuracy: the share of examples whose highest logit is that of the label.

    Under soft labels (float[batch, classes]) an example counts as correct if no class is more probable than the one
    that scores highest. The label is one of the top 5 if fewer than five logits are higher than its own. A single logit
    is that of class 1 against class 0. Int labels below 0 are no labels and never right.

    Attributes:
      num_classes: top-5 accuracy is measured if there are more than 5.
      per_class: also measure the accuracy of each class.
    """

    num_classes: int = 0
    per_class: bool = False

    def zeros(self) -> Sums:
        """Return the sums over no examples."""
        zeros = {"correct": jnp.zeros((), jnp.int32)}
        if self.num_classes > 5:
            zeros["top5_correct"] = jnp.zeros((), jnp.int32)
        if self.per_class:
            zeros |= {name: jnp.zeros(self.num_classes, jnp.int32) for name in ("class_correct", "class_count")}
        return zeros

    def sums(self, outputs: jax.Array, batch: Mapping[str, jax.Array], mask: jax.Array) -> Sums:
        """Count right answers; ``outputs`` are float[batch, classes]."""
        labels, best = batch["label"], outputs.argmax(-1)
        single = outputs.shape[-1] == 1
        if single:
            best = (outputs[:, 0] > 0).astype(jnp.int32)
        if labels.ndim == 1:
            right, label = best == labels, labels
        elif single:
            label = (labels[:, 0] >= 0.5).astype(jnp.int32)
            right = best == label
        else:
            right = jnp.take_along_axis(labels, best[:, None], 1)[:, 0] >= labels.max(-1)
            label = labels.argmax(-1)
        right &= mask
        sums = {"correct": right.sum(dtype=jnp.int32)}
        if self.num_classes > 5:
            own = jnp.take_along_axis(outputs, label[:, None].astype(jnp.int32), 1)
            # Written so that logits that are not numbers are never right.
            top5 = ((outputs > own).sum(-1) < 5) & jnp.isfinite(own[:, 0]) & mask
            sums["top5_correct"] = top5.sum(dtype=jnp.int32)
        if self.per_class:
            zeros = jnp.zeros(self.num_classes, jnp.int32)
            sums["class_correct"] = zeros.at[label].add(right.astype(jnp.int32))
            sums["class_count"] = zeros.at[label].add(mask.astype(jnp.int32))
        return sums

    def means(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return ``accuracy``, ``top5_accuracy`` and ``class_accuracy`` (None where a class has no example)."""
        means: dict[str, Any] = {"accuracy": int(sums["correct"]) / count}
        if self.num_classes > 5:
            means["top5_accuracy"] = int(sums["top5_correct"]) / count
        if self.per_class:
            pairs = zip(np.asarray(sums["class_correct"]), np.asarray(sums["class_count"]), strict=True)
            means["class_accuracy"] = [int(right) / int(all_) if all_ else None for right, all_ in pairs]
        return means


@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean squared and mean absolute error of ``target``, and of images the peak signal-to-noise ratio.

    Attributes:
      peak: largest value of an image, such as 1.0: PSNR = 10 log10(peak^2 / MSE) in dB, the mean over the images. None
        does not measure it.
    """

    peak: float | None = None

    def zeros(self) -> Sums:
        """Return the sums over no examples."""
        names = ("squared_error_sum", "absolute_error_sum") + (("psnr_sum",) if self.peak else ())
        return {name: jnp.zeros((), jnp.float32) for name in names}

    def sums(self, outputs: jax.Array, batch: Mapping[str, jax.Array], mask: jax.Array) -> Sums:
        """Sum the errors; ``outputs`` are of the shape of ``target``."""
        error = (outputs.astype(jnp.float32) - batch["target"].astype(jnp.float32)).reshape(len(mask), -1)
        squared = jnp.square(error).mean(1)
        sums = {
            "squared_error_sum": jnp.where(mask, squared, 0).sum(),
            "absolute_error_sum": jnp.where(mask, jnp.abs(error).mean(1), 0).sum(),
        }
        if self.peak:
            # An image that is met exactly would be infinitely good; here it has an error of 1e-10 of the peak's square.
            ratio = jnp.maximum(squared / self.peak**2, 1e-10)
            sums["psnr_sum"] = jnp.where(mask, -10 * jnp.log10(ratio), 0).sum()
        return sums

    def means(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return ``mse``, ``mae`` and ``psnr``."""
        names = {"squared_error_sum": "mse", "absolute_error_sum": "mae", "psnr_sum": "psnr"}
        return {name: float(sums[key]) / count for key, name in names.items() if key in sums}


def zero_sums(metrics: Metrics = Classification()) -> Sums:
    """Return the sums of a step over no examples."""
    return {
        "loss_sum": jnp.zeros((), jnp.float32),
        "count": jnp.zeros((), jnp.int32),
        "gradient_norm_sum": jnp.zeros((), jnp.float32),
        "steps": jnp.zeros((), jnp.int32),
    } | metrics.zeros()


def means(sums: Mapping[str, Any], metrics: Metrics = Classification()) -> dict[str, Any]:
    """Return the mean ``loss``, the metrics (accuracies from 0 to 1) and, of training, the mean ``gradient_norm``.

    Args:
      sums: of steps that were given the same ``metrics``.
      metrics: what they measured.
    """
    count = max(int(sums["count"]), 1)
    values = {"loss": float(sums["loss_sum"]) / count} | metrics.means(sums, count)
    if steps := int(sums["steps"]):
        values["gradient_norm"] = float(sums["gradient_norm_sum"]) / steps
    return values
