"""Augmentations of colour and light. They change the image alone; targets and labels stay.

Arithmetic and rounding (towards zero in uint8) are those of torchvision's ``transforms.v2.functional``. Images of one
channel have no colour: hue, saturation, grey and channel order leave them as they are.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cnnjax.data.augment.operation import (
    Batch,
    between,
    change_images,
    check,
    per_example,
    uniforms,
    white,
)

# ITU-R 601-2 luma, as torchvision rounds it.
LUMA = (0.2989, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class _Jitter:
    """What brightness, contrast and saturation share: a factor around 1.

    Source: torchvision's ``ColorJitter``, one field of it.

    Attributes:
      strength: the factor is uniform from max(0, 1 - strength) to 1 + strength.
      probability: of each image.
    """

    strength: float = 0.4
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "strength", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = uniforms(keys, 2)
        factors = between(random[:, 1], max(0.0, 1 - self.strength), 1 + self.strength)
        whole = bool(batch["image"].dtype == jnp.uint8)
        return change_images(
            batch, random[:, 0] < self.probability, lambda x: self.adjust(x, per_example(factors, x), whole)
        )

    def adjust(self, images: jax.Array, factors: jax.Array, whole: bool) -> jax.Array:
        """Return float images changed by factors [batch, 1, 1, 1]; ``whole``: their values are whole numbers."""
        raise NotImplementedError


class Brightness(_Jitter):
    """Multiply images by a factor; see `_Jitter` for the fields."""

    def adjust(self, images: jax.Array, factors: jax.Array, whole: bool) -> jax.Array:
        """See `_Jitter`."""
        return images * factors


class Contrast(_Jitter):
    """Move pixels away from the image's mean grey, or towards it; see `_Jitter` for the fields."""

    def adjust(self, images: jax.Array, factors: jax.Array, whole: bool) -> jax.Array:
        """See `_Jitter`."""
        return blend(images, mean_luma(images, whole), factors)


class Saturation(_Jitter):
    """Move pixels away from their grey, or towards it; see `_Jitter` for the fields."""

    def adjust(self, images: jax.Array, factors: jax.Array, whole: bool) -> jax.Array:
        """See `_Jitter`."""
        return blend(images, luma(images, whole), factors)


@dataclasses.dataclass(frozen=True)
class Gamma:
    """Raise pixels, from 0 to 1, to a power.

    Source: torchvision's ``adjust_gamma``, which leaves the draw to its caller.

    Attributes:
      strength: the logarithm of the power is uniform from -log(1 + strength) to log(1 + strength).
      probability: of each image.
    """

    strength: float = 0.5
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "strength", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = uniforms(keys, 2)
        powers = (1 + self.strength) ** between(random[:, 1], -1, 1)
        return self.adjust(batch, random[:, 0] < self.probability, powers)

    @staticmethod
    def adjust(batch: Batch, chosen: jax.Array, powers: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with the chosen images raised to ``powers`` float32[batch]."""
        bound = white(batch["image"].dtype)
        # Powers of 1 are not quite exact; rounding hides that.
        return change_images(batch, chosen, lambda x: bound * (x / bound) ** per_example(powers, x), truncate=False)


@dataclasses.dataclass(frozen=True)
class Hue:
    """Turn the hue of RGB images.

    Source: torchvision's ``ColorJitter(hue=)``.

    Attributes:
      strength: largest turn in either direction, as a share of the circle, at most 0.5.
      probability: of each image.
    """

    strength: float = 0.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "strength", 0, 0.5)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = uniforms(keys, 2)
        turns = between(random[:, 1], -self.strength, self.strength)
        return self.adjust(batch, random[:, 0] < self.probability, turns)

    @staticmethod
    def adjust(batch: Batch, chosen: jax.Array, turns: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with the hue of the chosen images turned by ``turns`` float32[batch]."""
        if batch["image"].shape[-1] != 3:
            return dict(batch)
        bound = white(batch["image"].dtype)
        turned = chosen & (turns != 0)
        return change_images(
            batch, turned, lambda x: bound * turn_hue(x / bound, per_example(turns, x)[..., 0]), truncate=False
        )


@dataclasses.dataclass(frozen=True)
class Grey:
    """Take the colour out of RGB images.

    Source: torchvision's ``RandomGrayscale``, with ``strength`` 1.

    Attributes:
      strength: share of the colour that is taken out.
      probability: of each image.
    """

    strength: float = 1.0
    probability: float = 0.1

    def __post_init__(self) -> None:
        check(self, "strength", 0, 1)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        whole = bool(batch["image"].dtype == jnp.uint8)
        keep = jnp.full((1, 1, 1, 1), 1 - self.strength, jnp.float32)
        chosen = uniforms(keys, 1)[:, 0] < self.probability
        return change_images(batch, chosen, lambda x: blend(x, luma(x, whole), keep))


@dataclasses.dataclass(frozen=True)
class ChannelShuffle:
    """Put the channels in a random order, each order being equally likely.

    Source: torchvision's ``RandomChannelPermutation``.

    Attributes:
      probability: of each image.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        channels = batch["image"].shape[-1]
        random = uniforms(keys, channels + 1)
        order = jnp.argsort(random[:, 1:], axis=-1)
        chosen = random[:, 0] < self.probability
        return change_images(batch, chosen, lambda x: jnp.take_along_axis(x, order[:, None, None], axis=-1))


@dataclasses.dataclass(frozen=True)
class Sharpness:
    """Move pixels away from the mean of their neighbourhood, or towards it; the outermost pixels stay.

    Source: torchvision's ``RandomAdjustSharpness``; differs: the factor is drawn.

    Attributes:
      strength: the factor is uniform from max(0, 1 - strength) to 1 + strength.
      probability: of each image.
    """

    strength: float = 0.9
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "strength", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = uniforms(keys, 2)
        factors = between(random[:, 1], max(0.0, 1 - self.strength), 1 + self.strength)
        whole = bool(batch["image"].dtype == jnp.uint8)
        chosen = random[:, 0] < self.probability
        return change_images(batch, chosen, lambda x: blend(x, smooth(x, whole), per_example(factors, x)))


def blend(images: jax.Array, other: jax.Array, factors: jax.Array) -> jax.Array:
    """Return the images with ``factors`` 1, ``other`` with 0, and what lies beyond the images above 1."""
    return images * factors + other * (1 - factors)


def luma(images: jax.Array, whole: bool) -> jax.Array:
    """Return the grey of float images, [batch, height, width, 1]; of other than three channels, the images.

    Args:
      images: float32[batch, height, width, channels].
      whole: round down to whole numbers.
    """
    if images.shape[-1] != 3:
        return images
    red, green, blue = (images[..., i : i + 1] * weight for i, weight in enumerate(LUMA))
    grey = red + green + blue
    return jnp.floor(grey) if whole else grey


def mean_luma(images: jax.Array, whole: bool) -> jax.Array:
    """Return the mean of each image's `luma`, [batch, 1, 1, 1]."""
    grey = luma(images, whole).reshape(len(images), -1)
    # A product sums several times as fast on CPUs as a reduction.
    sums = jnp.dot(grey, jnp.ones(grey.shape[1], jnp.float32), precision="highest")
    return (sums / grey.shape[1]).reshape(-1, 1, 1, 1)


def smooth(images: jax.Array, whole: bool) -> jax.Array:
    """Return float images with each inner pixel replaced by 5/13 of itself and 1/13 of each of its 8 neighbours.

    Args:
      images: float32[batch, height, width, channels].
      whole: round to whole numbers.
    """
    height, width = images.shape[1:3]
    if height < 3 or width < 3:
        return images
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    inner = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images[:, 1:-1, 1:-1]) / 13
    return images.at[:, 1:-1, 1:-1].set(jnp.round(inner) if whole else inner)


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Add ``turns`` to the hue, in hue, saturation and value, of RGB images.

    Args:
      images: float32[batch, height, width, 3], from 0 to 1.
      turns: float32[batch, 1, 1], in turns of the circle.
    """
    red, green, blue = (images[..., i] for i in range(3))
    value = images.max(-1)
    spread = value - images.min(-1)
    safe = jnp.where(spread == 0, jnp.ones_like(spread), spread)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = jnp.mod(jnp.where(spread == 0, jnp.zeros_like(sector), sector) + 6 * turns, 6.0)
    # A channel is at its lowest but near its own third of the circle, where it rises to the value and falls again.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = jnp.mod(offset + sector, 6.0)
        channels.append(value - spread * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))
    return jnp.stack(channels, -1)
