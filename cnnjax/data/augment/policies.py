"""Policies: random sequences of fifteen basic operations, with the tables of magnitudes of torchvision.

A step applies one operation to each image, each image its own. Under ``jax.vmap`` a switch would run all fifteen; here
an operation is a matrix, a lookup table of 256 values a channel, or a blend with a grey or a smoothed image, so that a
step is one warp, one lookup and one blend for the whole batch, at most.

Images are uint8. In geometric operations labels and targets with places go along; `AugMix` refuses them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.colour import blend, luma, mean_luma, smooth
from cnnjax.data.augment.geometry import Interpolation, warp
from cnnjax.data.augment.mixing import beta, gamma
from cnnjax.data.augment.operation import Batch, check, per_example, pixels, uniforms

# The numbers by which operations are known below.
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)
SIGNED = np.array([1 <= number <= 9 for number in range(len(OPERATIONS))])
# Those that give each value of a channel another one, and those that blend an image with a version of itself.
TABLES = ("Brightness", "Contrast", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
BLENDS = ("Color", "Sharpness")
# AutoAugment knows an identity only as an operation that is not applied; no policy but its own inverts.
WITHOUT_INVERT = OPERATIONS[:-1]


def magnitudes(space: str, bins: int, height: int, width: int) -> np.ndarray:
    """Return float32[15, bins]: what each bin means for each operation.

    Shears are tangents, translations pixels, rotations degrees, blends the distance of the factor from 1, posterize
    the bits that stay, solarize the share of white from which pixels are inverted; 0 for operations without magnitude.

    Args:
      space: "auto" of AutoAugment and RandAugment, "wide" of TrivialAugment, "augmix".
      bins: how many.
      height, width: of the images, pixels.
    """
    lines: dict[str, Any] = {
        "auto": {"shear": 0.3, "x": 150 / 331 * width, "y": 150 / 331 * height, "rotate": 30, "blend": 0.9},
        "wide": {"shear": 0.99, "x": 32, "y": 32, "rotate": 135, "blend": 0.99},
        "augmix": {"shear": 0.3, "x": width / 3, "y": height / 3, "rotate": 30, "blend": 0.9},
    }[space]
    bits, fewer = {"auto": (8, 4), "wide": (8, 6), "augmix": (4, 4)}[space]
    kinds = ("shear", "shear", "x", "y", "rotate", "blend", "blend", "blend", "blend")
    table = np.zeros((len(OPERATIONS), bins), np.float32)
    for number, kind in enumerate(kinds, 1):
        table[number] = np.linspace(0, lines[kind], bins)
    table[OPERATIONS.index("Posterize")] = np.round(bits - np.arange(bins) / ((bins - 1) / fewer))
    table[OPERATIONS.index("Solarize")] = np.linspace(1, 0, bins)
    return table


def apply_operations(
    batch: Batch,
    numbers: jax.Array,
    magnitude: jax.Array,
    interpolation: Interpolation = "nearest",
    fill: float = 0.0,
) -> dict[str, jax.Array]:
    """Apply to each image one of `OPERATIONS`.

    Args:
      batch: see `Operation`; images are uint8.
      numbers: int32[batch], of the operations.
      magnitude: float32[batch], with its sign; see `magnitudes`.
      interpolation, fill: of the geometric operations, see `warp`.
    Raises:
      TypeError: images of another type than uint8.
    """
    if batch["image"].dtype != jnp.uint8:
        raise TypeError(f"policies work on uint8 images, got {batch['image'].dtype}; augment before normalising")
    height, width = batch["image"].shape[1:3]
    batch = warp(batch, _matrices(numbers, magnitude, height, width), interpolation, fill)
    # What a branch takes lies in memory. Fused with the warp, lookups and blends would gather each pixel anew each time
    # they read it, twelve times in all.
    images = jax.lax.cond(
        _any(numbers, TABLES),
        lambda images: _look_up(images, _tables(images, numbers, magnitude)),
        lambda images: images,
        batch["image"],
    )
    images = jax.lax.cond(
        _any(numbers, BLENDS), lambda images: _blend(images, numbers, magnitude), lambda images: images, images
    )
    return {**batch, "image": images}


def _any(numbers: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """Return whether one of the operations is in the batch."""
    return jnp.isin(numbers, jnp.asarray([OPERATIONS.index(name) for name in names])).any()


def _blend(images: jax.Array, numbers: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Return images with colour or sharpness changed where that is the operation."""
    values = images.astype(jnp.float32)
    is_colour, is_sharpness = numbers == OPERATIONS.index("Color"), numbers == OPERATIONS.index("Sharpness")
    factors = 1 + jnp.where(is_colour | is_sharpness, magnitude, 0)
    other = jnp.where(per_example(is_sharpness, values), smooth(values, whole=True), luma(values, whole=True))
    return pixels(blend(values, other, per_example(factors, values)), jnp.uint8, truncate=True)


def _matrices(numbers: jax.Array, magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the matrices (see `warp`) of the operations; the identity for those that move nothing.

    Shears are about the upper left corner and rotations counter-clockwise about the middle, as in torchvision.
    """

    def only(name: str, values: jax.Array) -> jax.Array:
        return jnp.where(numbers == OPERATIONS.index(name), values, 0)

    shear_x, shear_y = only("ShearX", magnitude), only("ShearY", magnitude)
    pixels_moved = jnp.trunc(magnitude)
    angle = jnp.deg2rad(only("Rotate", magnitude))
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    rows = [
        [cosine, shear_x - sine, shear_x * (height / 2) - only("TranslateX", pixels_moved)],
        [shear_y + sine, cosine, shear_y * (width / 2) - only("TranslateY", pixels_moved)],
    ]
    return jnp.stack([jnp.stack(row, -1) for row in rows], 1)


def _tables(images: jax.Array, numbers: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Return uint8[batch, channels, 256]: the new value of each old one; the identity for what is no lookup."""
    count, channels = images.shape[0], images.shape[-1]
    values = jnp.arange(256, dtype=jnp.float32).reshape(1, 1, -1)
    strength = magnitude.reshape(-1, 1, 1)
    mean = mean_luma(images.astype(jnp.float32), whole=True).reshape(-1, 1, 1)
    histograms = _histograms(images)
    there = histograms > 0
    low = jnp.argmax(there, -1, keepdims=True).astype(jnp.float32)
    high = 255 - jnp.argmax(there[..., ::-1], -1, keepdims=True).astype(jnp.float32)
    flat = low == high
    low, scale = jnp.where(flat, 0, low), jnp.where(flat, 1, (high - low) * (1 / 255))
    step = 2 ** (8 - jnp.trunc(jnp.clip(strength, 0, 8)))
    choices = {
        "Brightness": values * (1 + strength),
        "Contrast": blend(values, mean, 1 + strength),
        "Posterize": jnp.floor(values / step) * step,
        "Solarize": jnp.where(values >= 255 * strength, 255 - values, values),
        "AutoContrast": (values - low) / scale,
        "Equalize": _equalizing(histograms),
        "Invert": 255 - values,
    }
    table = jnp.broadcast_to(values, (count, channels, 256))
    for name, choice in choices.items():
        table = jnp.where((numbers == OPERATIONS.index(name)).reshape(-1, 1, 1), choice, table)
    return pixels(table, jnp.uint8, truncate=True)


def _look_up(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Return images with the values v of channel c replaced by ``tables[:, c, v]``."""
    count, channels = images.shape[0], images.shape[-1]
    places = images.astype(jnp.int32) + 256 * jnp.arange(channels).reshape(1, 1, 1, -1)
    taken = jnp.take_along_axis(tables.reshape(count, -1), places.reshape(count, -1), axis=1, mode="promise_in_bounds")
    return taken.reshape(images.shape)


def _histograms(images: jax.Array) -> jax.Array:
    """Return int32[batch, channels, 256]: how often each value occurs in uint8[batch, height, width, channels]."""
    # Adding one by one is fastest on CPUs, where products of indicators take fifty times as long; accelerators are made
    # for products and serialise additions to one place.
    return jax.lax.platform_dependent(images, cpu=_histograms_by_addition, default=_histograms_by_product)


def _histograms_by_addition(images: jax.Array) -> jax.Array:
    count, _, _, channels = images.shape
    rows = 256 * jnp.arange(count * channels).reshape(count, 1, 1, channels)
    counts = jnp.zeros(count * channels * 256, jnp.int32)
    return counts.at[(images.astype(jnp.int32) + rows).reshape(-1)].add(1).reshape(count, channels, 256)


def _histograms_by_product(images: jax.Array) -> jax.Array:
    count, _, _, channels = images.shape
    values = images.reshape(count, -1, channels)[..., None]
    digits = jnp.arange(16, dtype=jnp.uint8).reshape(1, 1, 1, -1)
    # Zeros and ones are exact in bfloat16, and sums in float32 up to 2^24 pixels.
    sixteens, ones = ((part == digits).astype(jnp.bfloat16) for part in (values >> 4, values & 15))
    counts = jnp.einsum("npci,npcj->ncij", sixteens, ones, preferred_element_type=jnp.float32)
    return counts.reshape(count, channels, 256).astype(jnp.int32)


def _equalizing(histograms: jax.Array) -> jax.Array:
    """Return float32[batch, channels, 256]: the table that spreads values evenly, as Pillow's ``equalize`` does."""
    cumulated = jnp.cumsum(histograms, -1)
    size = cumulated[..., -1:]
    largest = jnp.argmax(cumulated, -1, keepdims=True)
    step = (size - jnp.take_along_axis(histograms, largest, -1)) // 255
    before = cumulated - histograms
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    same = jnp.arange(256, dtype=table.dtype).reshape(1, 1, -1)
    return jnp.where(step == 0, same, table).astype(jnp.float32)


def _signed(numbers: jax.Array, magnitude: jax.Array, coin: jax.Array) -> jax.Array:
    """Return the magnitudes, those of operations with two directions negative where the coin is below a half."""
    return jnp.where(jnp.asarray(SIGNED)[numbers] & (coin < 0.5), -magnitude, magnitude)


def _choice(uniform: jax.Array, count: int) -> jax.Array:
    """Return int32 from 0 to ``count`` - 1, from numbers uniform from 0 to below 1."""
    return jnp.minimum(jnp.floor(uniform * count), count - 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Apply some of fourteen operations after each other, all with the same magnitude.

    Source: Cubuk et al. 2019, arXiv:1909.13719, figure 2; operations, magnitudes and defaults are those of
    torchvision's ``RandAugment``.

    Attributes:
      operations: how many a picture.
      magnitude: bin, from 0 to 30.
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    operations: int = 2
    magnitude: int = 9
    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "operations", 0)
        check(self, "magnitude", 0, 30)
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        table = jnp.asarray(magnitudes("auto", 31, height, width)[:, self.magnitude])
        random = uniforms(keys, 1 + 2 * self.operations)
        batch = dict(batch)
        for step in range(self.operations):
            which, coin = random[:, 1 + 2 * step], random[:, 2 + 2 * step]
            numbers = jnp.where(random[:, 0] < self.probability, _choice(which, len(WITHOUT_INVERT)), 0)
            batch = apply_operations(
                batch, numbers, _signed(numbers, table[numbers], coin), self.interpolation, self.fill
            )
        return batch


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """Apply one of fourteen operations with one of 31 magnitudes, all being equally likely: nothing to tune.

    Source: Müller and Hutter 2021, arXiv:2103.10158, algorithm 1 and table 1 (wide); as torchvision's
    ``TrivialAugmentWide``.

    Attributes:
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        table = jnp.asarray(magnitudes("wide", 31, height, width))
        random = uniforms(keys, 4)
        numbers = jnp.where(random[:, 0] < self.probability, _choice(random[:, 1], len(WITHOUT_INVERT)), 0)
        magnitude = _signed(numbers, table[numbers, _choice(random[:, 2], 31)], random[:, 3])
        return apply_operations(batch, numbers, magnitude, self.interpolation, self.fill)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Apply one of 25 learnt pairs of operations, each operation with the pair's probability and magnitude.

    Source: Cubuk et al. 2018, arXiv:1805.09501, tables 7 (CIFAR-10) and 9 (ImageNet), in torchvision's reading.

    Attributes:
      policy: "cifar10" or "imagenet".
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    policy: str = "imagenet"
    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy of AutoAugment must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        bins = magnitudes("auto", 10, height, width)
        rows = POLICIES[self.policy]
        table = np.array([[OPERATIONS.index(name) for name, _, _ in row] for row in rows], np.int32)
        probabilities = np.array([[probability for _, probability, _ in row] for row in rows], np.float32)
        strengths = np.array([[bins[OPERATIONS.index(name), level or 0] for name, _, level in row] for row in rows])
        random = uniforms(keys, 6)
        chosen = _choice(random[:, 1], len(rows))
        batch = dict(batch)
        for step in range(2):
            used = (random[:, 0] < self.probability) & (
                random[:, 2 + step] < jnp.asarray(probabilities[:, step])[chosen]
            )
            numbers = jnp.where(used, jnp.asarray(table[:, step])[chosen], 0)
            magnitude = _signed(numbers, jnp.asarray(strengths[:, step])[chosen], random[:, 4 + step])
            batch = apply_operations(batch, numbers, magnitude, self.interpolation, self.fill)
        return batch


@dataclasses.dataclass(frozen=True)
class AugMix:
    """Blend an image with a blend of chains of one to three operations.

    The paper's consistency loss between mixtures is not part of it.

    Source: Hendrycks et al. 2019, arXiv:1912.02781, algorithm 1; operations and magnitudes as torchvision's ``AugMix``
    with ``all_ops`` (the paper leaves out brightness, contrast, colour and sharpness, with which its test is made).

    Attributes:
      severity: operations draw their magnitude from the weakest of ten bins up to this one, 1 to 10.
      probability: of each image.
      chains: blended with weights of Dirichlet(alpha, ..., alpha).
      depth: operations a chain; 0: one to three, each equally likely.
      alpha: also of the Beta distribution that weighs the blend against the image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    severity: int = 3
    probability: float = 1.0
    chains: int = 3
    depth: int = 0
    alpha: float = 1.0
    interpolation: Interpolation = "bilinear"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "severity", 1, 10)
        check(self, "probability", 0, 1)
        check(self, "chains", 1)
        check(self, "depth", 0)
        check(self, "alpha", 0.01)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`.

        Raises:
          ValueError: labels or targets with places, which cannot follow a blend of moved images.
        """
        for name, dimensions in (("label", 3), ("target", 4)):
            if name in batch and batch[name].ndim == dimensions:
                raise ValueError(f"AugMix blends differently moved copies of an image, which {name} cannot follow")
        images = batch["image"]
        count, height, width, _ = images.shape
        steps = self.depth or 3
        random = uniforms(keys, 2 + self.chains * (2 + 3 * steps))
        share = beta(random[:, 1], self.alpha)
        # [chains, batch, draws]: all chains are worked on at once, as one batch.
        each = jnp.moveaxis(random[:, 2:].reshape(count, self.chains, -1), 1, 0)
        weights = gamma(each[..., 0], self.alpha)
        weights = weights / weights.sum(0, keepdims=True) * (1 - share)[None]
        draws = each.reshape(self.chains * count, -1)
        lengths = self.depth or 1 + _choice(draws[:, 1], 3)
        table = jnp.asarray(magnitudes("augmix", 10, height, width))
        copies: dict[str, jax.Array] = {"image": jnp.tile(images, (self.chains, 1, 1, 1))}
        for step in range(steps):
            which, level, coin = (draws[:, 2 + 3 * step + i] for i in range(3))
            numbers = jnp.where(step < lengths, _choice(which, len(WITHOUT_INVERT) - 1) + 1, 0)
            magnitude = _signed(numbers, table[numbers, _choice(level, self.severity)], coin)
            copies = apply_operations(copies, numbers, magnitude, self.interpolation, self.fill)
        chains = copies["image"].reshape(self.chains, *images.shape).astype(jnp.float32)
        mixed = per_example(share, images) * images.astype(jnp.float32)
        mixed += jnp.einsum("kn,knhwc->nhwc", weights, chains, precision="highest")
        chosen = per_example(random[:, 0] < self.probability, images)
        return {**batch, "image": jnp.where(chosen, pixels(mixed, jnp.uint8, truncate=True), images)}


# Pairs of (operation, probability, bin of ten); copied from the paper's tables as torchvision reads them.
POLICIES: dict[str, list[tuple[tuple[str, float, int | None], tuple[str, float, int | None]]]] = {
    "cifar10": [
        (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
        (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
        (("Color", 0.9, 9), ("Equalize", 0.6, None)),
        (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, None), ("Invert", 0.1, None)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
    ],
    "imagenet": [
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
        (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
        (("Color", 0.4, 0), ("Equalize", 0.6, None)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    ],
}
