"""Attribution by covering parts of the images: no gradient is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.explain.passes import check_count, sum_over
from cnnjax.explain.targets import (
    Target,
    broadcast_baseline,
    check_images,
    fixed_target,
    probability_function,
    score_function,
)


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in pair):
        raise ValueError(f"{name} must be one or two whole numbers of at least 1, got {value!r}")
    return pair[0], pair[1]


def occlusion(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    window: int | Sequence[int] | None = None,
    strides: int | Sequence[int] | None = None,
    baseline: jax.Array | float = 0.0,
    batch_size: int = 16,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return by how much the score falls when a window over each pixel is covered.

    Windows slide by ``strides`` until one covers the last row and column, and end at the border. A pixel's value is the
    mean over the windows that cover it, as in captum. One pass per window.

    Source: Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2 and figure 7; differs: the fall of the score instead of
    the score, so that what matters is positive. PAIR's saliency sums over the windows that cover a pixel.

    Args:
      model, variables, images, target, layer, **kwargs: as in `cnnjax.explain.saliency`; a top class is that of the
        uncovered images.
      window: height and width, pixels; None for an eighth of the image.
      strides: step between windows, at most the window; None for half of it.
      baseline: a number, or an array that broadcasts against images: what windows are covered with. 0 is the mean
        colour of normalised images, the paper's grey.
      batch_size: windows whose images go through the network together.
    Returns:
      float32[batch, height, width].
    Raises:
      ValueError: as in `cnnjax.explain.saliency`; a window larger than the image, or strides larger than the window.
    """
    images = check_images(images)
    check_count("batch_size", batch_size)
    sizes = images.shape[1:3]
    window = (max(sizes[0] // 8, 1), max(sizes[1] // 8, 1)) if window is None else _pair("window", window)
    strides = (max(window[0] // 2, 1), max(window[1] // 2, 1)) if strides is None else _pair("strides", strides)
    if window[0] > sizes[0] or window[1] > sizes[1]:
        raise ValueError(f"window must be at most the images' {sizes[0]}x{sizes[1]}, got {window[0]}x{window[1]}")
    if strides[0] > window[0] or strides[1] > window[1]:
        raise ValueError(f"strides must be at most the window {window}, so that every pixel is covered, got {strides}")
    target = fixed_target(model, variables, images, target, layer, kwargs)
    score = score_function(model, variables, target, layer, kwargs)
    reference = score(images)
    cover = broadcast_baseline(baseline, images)
    rows, columns = (-(-(size - w) // s) + 1 for size, w, s in zip(sizes, window, strides, strict=True))
    tops, lefts = jnp.meshgrid(strides[0] * jnp.arange(rows), strides[1] * jnp.arange(columns), indexing="ij")

    def effect(corner: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        top, left = corner
        row, column = jnp.arange(sizes[0])[:, None], jnp.arange(sizes[1])[None, :]
        inside = (row >= top) & (row < top + window[0]) & (column >= left) & (column < left + window[1])
        fall = reference - score(jnp.where(inside[None, :, :, None], cover, images))
        covered = inside.astype(jnp.float32)
        return fall[:, None, None] * covered[None], covered

    total, times = sum_over(effect, (tops.ravel(), lefts.ravel()), batch_size)
    return total / times[None]


def rise(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    key: jax.Array | None = None,
    masks: int = 4000,
    cells: int = 7,
    probability: float = 0.5,
    batch_size: int = 16,
    **kwargs: Any,
) -> jax.Array:
    """Return the mean of random masks, each weighted with the score of the image seen through it.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, section 3; differs: all images of a batch share their masks.

    Args:
      model, variables, images, target, **kwargs: as in `cnnjax.explain.saliency`; of a class, the probability is taken.
      key: of the masks; None for ``jax.random.key(0)``.
      masks: number of masks, and of passes.
      cells: cells of a mask along height and width, before interpolation and a random shift.
      probability: that a cell is seen.
      batch_size: masks whose images go through the network together.
    Returns:
      float32[batch, height, width].
    Raises:
      ValueError: as in `cnnjax.explain.saliency`; no mask or cell, or a probability that is not between 0 and 1.
    """
    images = check_images(images)
    check_count("masks", masks)
    check_count("cells", cells)
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    target = fixed_target(model, variables, images, target, None, kwargs)
    score = probability_function(model, variables, target, kwargs)
    height, width = images.shape[1:3]
    tall, wide = -(-height // cells), -(-width // cells)

    def weighted(key: jax.Array) -> jax.Array:
        draw, down, right = jax.random.split(key, 3)
        seen = jax.random.bernoulli(draw, probability, (cells + 1, cells + 1)).astype(jnp.float32)
        mask = jax.image.resize(seen, ((cells + 1) * tall, (cells + 1) * wide), "bilinear")
        corner = jax.random.randint(down, (), 0, tall), jax.random.randint(right, (), 0, wide)
        mask = jax.lax.dynamic_slice(mask, corner, (height, width))
        return score(images * mask[None, :, :, None].astype(images.dtype))[:, None, None] * mask[None]

    keys = jax.random.split(jax.random.key(0) if key is None else key, masks)
    return sum_over(weighted, keys, batch_size) / (masks * probability)
