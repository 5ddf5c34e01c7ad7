"""Augmentations that mix neighbouring examples of a batch, and put images on other backgrounds.

Example i is mixed with example i ^ 1, its neighbour; the last one of an odd batch stays alone. Batches are in random
order, so that neighbours are strangers. What a pair draws comes from the key of its first example: dividing a batch
among devices into even parts changes nothing. An example whose neighbour is padding (``mask`` 0) stays alone too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.noise import rectangles
from cnnjax.data.augment.operation import Batch, check, per_example, pixels, uniforms, where, white

# Steps in which the distributions' quantiles are tabulated.
QUANTILES = 4096


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Blend each image with its neighbour, and their labels in the same proportion.

    Source: Zhang et al. 2017, arXiv:1710.09412, equation 2 (alpha 0.1 to 0.4 on ImageNet, 1 on CIFAR-10); differs: one
    weight per pair instead of one per batch.

    Attributes:
      alpha: the weight is drawn from Beta(alpha, alpha); 0 mixes nothing.
      probability: of each pair.
      num_classes: needed to turn labels int[batch] into float32[batch, num_classes].
    """

    alpha: float = 0.2
    probability: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check(self, "alpha", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`; ``label`` becomes float32[batch, classes], ``target`` is blended like the image,
        ``foreground`` stays. Examples without a label (below 0) stay alone, and their soft label is -1 throughout."""
        random = _pair_uniforms(keys, 2)
        chosen = (random[:, 0] < self.probability) & _paired(batch)
        return self.mix(batch, jnp.where(chosen, beta(random[:, 1], self.alpha), 1.0))

    def mix(self, batch: Batch, weights: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with each example weighing ``weights`` float32[batch] and its neighbour the rest."""
        return _mix(batch, weights, self.num_classes, lambda x: pixels(_blend(x, weights), x.dtype))


@dataclasses.dataclass(frozen=True)
class CutMix:
    """Replace a rectangle of each image by the neighbour's, and its share of the label.

    Source: Yun et al. 2019, arXiv:1905.04899, section 3.1 (alpha 1), algorithm A1; differs: one rectangle a pair
    instead of one per batch.

    Attributes:
      alpha: the area that stays is drawn from Beta(alpha, alpha), before the rectangle is clipped; 0 mixes nothing.
      probability: of each pair.
      num_classes: needed to turn labels int[batch] into float32[batch, num_classes].
    """

    alpha: float = 1.0
    probability: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check(self, "alpha", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`; ``label`` becomes float32[batch, classes], those with places are cut like the image."""
        random = _pair_uniforms(keys, 4)
        chosen = (random[:, 0] < self.probability) & _paired(batch)
        stays = jnp.where(chosen, beta(random[:, 1], self.alpha), 1.0)
        return self.mix(batch, stays, random[:, 2:])

    def mix(self, batch: Batch, stays: jax.Array, middles: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with rectangles of share 1 - ``stays`` about ``middles`` float32[batch, 2] exchanged."""
        height, width = batch["image"].shape[1:3]
        half = 0.5 * jnp.sqrt(1 - stays)
        edges = []
        for i, size in enumerate((height, width)):
            middle, reach = jnp.floor(middles[:, i] * size), jnp.floor(half * size)
            edges.append((jnp.maximum(middle - reach, 0), jnp.minimum(middle + reach, size)))
        (top, bottom), (left, right) = edges
        inside = rectangles(top, left, bottom, right, height, width)
        weights = 1 - (bottom - top) * (right - left) / (height * width)

        def cut(x: jax.Array) -> jax.Array:
            return jnp.where(inside if x.ndim == 4 else inside[..., 0], _neighbours(x), x)

        return _mix(batch, weights, self.num_classes, cut, places=cut)


@dataclasses.dataclass(frozen=True)
class MixupOrCutMix:
    """Mix each pair with `Mixup` or with `CutMix`, either being equally likely.

    Source: Wightman et al. 2021, arXiv:2110.00476, section 3 (ResNet strikes back), as timm's ``Mixup`` switches and
    torchvision's training script chooses; differs: one choice per pair instead of one per batch.

    Attributes:
      mixup_alpha, cutmix_alpha: see there.
      probability: of each pair to be mixed at all.
      num_classes: needed to turn labels int[batch] into float32[batch, num_classes].
    """

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check(self, "mixup_alpha", 0)
        check(self, "cutmix_alpha", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = _pair_uniforms(keys, 5)
        chosen = (random[:, 0] < self.probability) & _paired(batch)
        blended = random[:, 1] < 0.5
        ones = jnp.ones(len(random), jnp.float32)
        weights = jnp.where(chosen & blended, beta(random[:, 2], self.mixup_alpha), ones)
        stays = jnp.where(chosen & ~blended, beta(random[:, 2], self.cutmix_alpha), ones)
        batch = Mixup(self.mixup_alpha, 1.0, self.num_classes).mix(batch, weights)
        return CutMix(self.cutmix_alpha, 1.0, self.num_classes).mix(batch, stays, random[:, 3:])


@dataclasses.dataclass(frozen=True)
class Background:
    """Replace what lies behind the object.

    The object is where ``foreground`` bool[batch, height, width] holds; without one, where the segmentation label
    int[batch, height, width] is not 0. Labels and targets stay.

    Source: the chroma key of film; of training, Dwibedi et al. 2017, arXiv:1708.01642, section 4.

    Attributes:
      opacity: share of the new background, from 0 to 1.
      probability: of each image.
      source: "colour", one random colour; "noise", uniform noise in each pixel and channel; "neighbour", the
        neighbouring image of the batch, object included (that of an odd last one is itself).
    """

    opacity: float = 1.0
    probability: float = 0.5
    source: Literal["colour", "noise", "neighbour"] = "colour"

    def __post_init__(self) -> None:
        check(self, "opacity", 0, 1)
        check(self, "probability", 0, 1)
        if self.source not in ("colour", "noise", "neighbour"):
            raise ValueError(f"source of Background must be 'colour', 'noise' or 'neighbour', got {self.source!r}")

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`.

        Raises:
          ValueError: the batch says nothing about where the object is.
        """
        if "foreground" in batch:
            foreground = batch["foreground"].astype(bool)
        elif "label" in batch and batch["label"].ndim == 3:
            foreground = batch["label"] != 0
        else:
            raise ValueError(
                "replacing the background needs to know it: put foreground bool[batch, height, width] into the batch, "
                "or take a segmentation set, whose label 0 is the background"
            )
        images = batch["image"]
        bound = white(images.dtype)
        count, height, width, channels = images.shape
        drawn = {"colour": channels, "noise": height * width * channels, "neighbour": 0}[self.source]
        random = uniforms(keys, drawn + 1)
        if self.source == "neighbour":
            behind = _neighbours(images).astype(jnp.float32)
        else:
            size = (height, width) if self.source == "noise" else (1, 1)
            behind = bound * random[:, 1:].reshape(count, *size, channels)
        replaced = images.astype(jnp.float32) * (1 - self.opacity) + behind * self.opacity
        new = jnp.where(foreground[..., None], images, pixels(replaced, images.dtype))
        return {**batch, "image": where(random[:, 0] < self.probability, new, images)}


def _mix(
    batch: Batch,
    weights: jax.Array,
    num_classes: int | None,
    images: Callable[[jax.Array], jax.Array],
    places: Callable[[jax.Array], jax.Array] | None = None,
) -> dict[str, jax.Array]:
    """Return the batch with mixed images, labels and targets.

    Args:
      batch: see `Operation`.
      weights: float32[batch], each example's own share.
      num_classes: of labels that are not soft yet.
      images: mixes images.
      places: mixes labels that have height and width; None where they cannot be.
    """
    result = {**batch, "image": images(batch["image"])}
    for name in ("label", "foreground"):
        if name not in batch or batch[name].ndim != 3:
            continue
        if places is not None:
            result[name] = places(batch[name])
        elif name == "label":
            raise ValueError("mixup cannot blend label int[batch, height, width]; take CutMix for segmentation")
    label = batch.get("label")
    if label is not None and label.ndim < 3:
        if label.ndim == 1:
            if num_classes is None:
                raise ValueError("mixing labels int[batch] needs num_classes; give it to the operation")
            label = _soft(label, num_classes)
        result["label"] = _blend(label, weights)
    target = batch.get("target")
    if target is not None:
        same_places = target.ndim == 4 and target.shape[1:3] == batch["image"].shape[1:3]
        result["target"] = images(target) if same_places else _blend(target, weights).astype(target.dtype)
    return result


def _soft(label: jax.Array, num_classes: int) -> jax.Array:
    """Return float32[batch, classes] of int labels: -1 throughout of those below 0, which are none, and NaN of those
    that no class has, so that they show."""
    soft = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    return jnp.where(label[:, None] < 0, -1.0, jnp.where(label[:, None] < num_classes, soft, jnp.nan))


def _blend(values: jax.Array, weights: jax.Array) -> jax.Array:
    values = values.astype(jnp.float32)
    weights = per_example(weights, values)
    return values * weights + _neighbours(values) * (1 - weights)


def _neighbours(values: jax.Array) -> jax.Array:
    """Return the examples with neighbours exchanged."""
    even = len(values) // 2 * 2
    exchanged = values[:even].reshape(even // 2, 2, *values.shape[1:])[:, ::-1].reshape(even, *values.shape[1:])
    return jnp.concatenate([exchanged, values[even:]])


def _pair_uniforms(keys: jax.Array, count: int) -> jax.Array:
    """Return float32[batch, count], uniform from 0 to below 1, the same for both of a pair."""
    return jnp.repeat(uniforms(keys[::2], count), 2, axis=0)[: len(keys)]


def _paired(batch: Batch) -> jax.Array:
    """Return bool[batch]: whether an example has a neighbour, and both are real and have labels."""
    count = len(batch["image"])
    paired = jnp.arange(count) < count // 2 * 2
    if "mask" in batch:
        real = batch["mask"].astype(bool)
        paired &= real & _neighbours(real)
    label = batch.get("label")
    if label is not None and label.ndim in (1, 2):
        labelled = (label >= 0).reshape(count, -1).any(-1)
        paired &= labelled & _neighbours(labelled)
    return paired


def beta(uniform: jax.Array, alpha: float) -> jax.Array:
    """Return draws from Beta(alpha, alpha), from uniform ones, by its quantiles; 1 where ``alpha`` is 0."""
    if alpha == 0:
        return jnp.ones_like(uniform)
    return _interpolate(uniform, _beta_quantiles(alpha))


def gamma(uniform: jax.Array, alpha: float) -> jax.Array:
    """Return draws from Gamma(alpha), from uniform ones, by its quantiles; above 0."""
    return jnp.maximum(_interpolate(uniform, _gamma_quantiles(alpha)), 1e-30)


def _interpolate(uniform: jax.Array, table: np.ndarray) -> jax.Array:
    place = uniform * (len(table) - 1)
    low = jnp.floor(place)
    index = low.astype(jnp.int32)
    values = jnp.asarray(table)
    return values[index] + (place - low) * (values[index + 1] - values[index])


# Rejection, by which such numbers are drawn as a rule, loops as long as the unluckiest example needs.
@lru_cache
def _beta_quantiles(alpha: float) -> np.ndarray:
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, np.linspace(0, 1, QUANTILES + 1)).astype(np.float32)


@lru_cache
def _gamma_quantiles(alpha: float) -> np.ndarray:
    from scipy.special import gammaincinv

    shares = np.linspace(0, 1, QUANTILES + 1)
    shares[-1] = 1 - 0.5 / QUANTILES
    return gammaincinv(alpha, shares).astype(np.float32)
