"""The fifteen basic operations of policies, with the tables of magnitudes of torchvision.

Each image gets one operation, its own. Under ``jax.vmap`` a switch would run all fifteen; here an operation is a
matrix, a lookup table of 256 values per channel, or a blend with a grey or a smoothed image, so that a step is at most
one warp, one lookup and one blend for the whole batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.colour import blend, luma, mean_luma, smooth
from cnnjax.data.augment.geometry import Interpolation, warp
from cnnjax.data.augment.operation import Batch, per_example, pixels

# The numbers by which operations are known.
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
    return jnp.isin(numbers, jnp.asarray([OPERATIONS.index(name) for name in names], numbers.dtype)).any()


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
    places = images.astype(jnp.int32) + 256 * jnp.arange(channels, dtype=jnp.int32).reshape(1, 1, 1, -1)
    taken = jnp.take_along_axis(tables.reshape(count, -1), places.reshape(count, -1), axis=1, mode="promise_in_bounds")
    return taken.reshape(images.shape)


def _histograms(images: jax.Array) -> jax.Array:
    """Return int32[batch, channels, 256]: how often each value occurs in uint8[batch, height, width, channels]."""
    # Adding one by one is fastest on CPUs, where products of indicators take fifty times as long; accelerators are made
    # for products and serialise additions to one place.
    return jax.lax.platform_dependent(images, cpu=_histograms_by_addition, default=_histograms_by_product)


def _histograms_by_addition(images: jax.Array) -> jax.Array:
    count, _, _, channels = images.shape
    rows = 256 * jnp.arange(count * channels, dtype=jnp.int32).reshape(count, 1, 1, channels)
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
