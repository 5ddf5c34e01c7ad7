"""How good is a map: what removing its pixels does, and how far the map predicts the score.

A map is float[batch, height, width], or float[batch, height, width, channels] as methods for pixels return it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.explain.maximization import blurred
from cnnjax.explain.passes import check_count, sum_over
from cnnjax.explain.targets import (
    Target,
    broadcast_baseline,
    check_images,
    fixed_target,
    is_finite,
    probability_function,
    score_function,
)

INFIDELITY_KINDS = ("noise", "square")


class Curve(NamedTuple):
    """What a network says of images as more and more of their pixels change.

    Attributes:
      fractions: float32[steps + 1], changed share of the pixels, from 0 to 1.
      scores: float32[batch, steps + 1], probability of the class.
      area: float32[batch], under each curve, by the trapezoid rule.
    """

    fractions: jax.Array
    scores: jax.Array
    area: jax.Array


def check_maps(maps: Any, images: jax.Array) -> jax.Array:
    """Return maps as float32[batch, height, width, 1 or channels].

    Raises:
      ValueError: maps of other sizes than the images, or (outside of ``jax.jit``) with NaN or infinite values.
    """
    maps = jnp.asarray(maps)
    if maps.shape not in (images.shape, images.shape[:3]):
        raise ValueError(
            f"maps must be of the images' size, {images.shape[:3]} or {images.shape}, got {maps.shape}; class "
            "activation maps are of that size unless resize=False"
        )
    if not is_finite(maps):
        raise ValueError("maps must be finite, got NaN or infinite values")
    maps = maps.astype(jnp.float32)
    return maps[..., None] if maps.ndim == 3 else maps


def method_target(
    method: Callable[..., Any],
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target,
    kwargs: Mapping[str, Any],
) -> Target:
    """Return the target of a method that runs for changed images or weights, None replaced by the top class now.

    Raises:
      ValueError: no target for a layer, of which only the method knows what it means.
    """
    if target is not None:
        return target
    if kwargs.get("layer") is not None:
        raise ValueError(f"give a target with layer={kwargs['layer']!r}, got None")
    named = inspect.signature(method).parameters
    apply = {name: value for name, value in kwargs.items() if name not in named}
    return fixed_target(model, variables, images, None, None, apply)


def _curve(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    maps: jax.Array,
    target: Target,
    steps: int,
    batch_size: int,
    kwargs: Mapping[str, Any],
    ends: tuple[jax.Array, jax.Array],
) -> Curve:
    """Return the scores on the way from one end to the other, strongest pixels of the maps first."""
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    pixels = images.shape[1] * images.shape[2]
    strength = check_maps(maps, images).sum(-1).reshape(len(images), pixels)
    ranks = jnp.argsort(jnp.argsort(-strength, axis=-1, stable=True), axis=-1).reshape(*images.shape[:3], 1)
    target = fixed_target(model, variables, images, target, None, kwargs)
    score = probability_function(model, variables, target, kwargs)
    start, end = ends

    # Rounded from whole numbers, so that products of pixels and steps stay exact.
    counts = jnp.asarray([round(step * pixels / steps) for step in range(steps + 1)])
    found = jax.lax.map(lambda count: score(jnp.where(ranks < count, end, start)), counts, batch_size=batch_size)
    fractions = counts.astype(jnp.float32) / pixels
    scores = found.astype(jnp.float32).T
    widths = fractions[1:] - fractions[:-1]
    return Curve(fractions, scores, ((scores[:, 1:] + scores[:, :-1]) / 2 * widths[None]).sum(-1))


def deletion(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    maps: jax.Array,
    target: Target = None,
    *,
    baseline: jax.Array | float = 0.0,
    steps: int = 50,
    batch_size: int = 10,
    **kwargs: Any,
) -> Curve:
    """Return how the probability falls as the pixels are removed, those that a map calls most important first.

    A good map has a small area. A map per channel is summed over channels; of equal pixels the upper left goes first.
    Pixels that are removed leave edges that no photograph has; compare with the area of a random map.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, section 4.1; differs: equal portions instead of 224 pixels
    at a time.

    Args:
      model: the network, any Linen module.
      variables: its variables.
      images: float[batch, height, width, channels], as the network takes them.
      maps: float[batch, height, width] or float[batch, height, width, channels].
      target: None (each image's top class), an int, int[batch], or a function of the outputs that returns float[batch];
        of a class the probability is taken, and a function as it is.
      baseline: a number or an array that broadcasts against images, what pixels are replaced with.
      steps: portions in which pixels are removed; there is one pass for each, and one before.
      batch_size: portions whose images go through the network together.
      **kwargs: for ``model.apply``.
    Raises:
      ValueError: images or a target that cannot be explained; maps or a baseline of another size; no step.
    """
    images = check_images(images)
    ends = images, broadcast_baseline(baseline, images)
    return _curve(model, variables, images, maps, target, steps, batch_size, kwargs, ends)


def insertion(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    maps: jax.Array,
    target: Target = None,
    *,
    baseline: jax.Array | float | None = None,
    blur: float = 5.0,
    steps: int = 50,
    batch_size: int = 10,
    **kwargs: Any,
) -> Curve:
    """Return how the probability rises as pixels are put into a blurred copy, the most important first.

    A good map has a large area.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421, section 4.1; differs: equal portions instead of 224 pixels
    at a time.

    Args:
      model, variables, images, maps, target, steps, batch_size, **kwargs: as in `deletion`.
      baseline: what pixels are put into, a number or an array that broadcasts against images; None for a blurred copy.
      blur: standard deviation of the blur, pixels.
    Raises:
      ValueError: as in `deletion`; a blur that is not above 0.
    """
    images = check_images(images)
    if not blur > 0:
        raise ValueError(f"blur must be > 0, got {blur}")
    start = blurred(images, blur) if baseline is None else broadcast_baseline(baseline, images)
    ends = start.astype(images.dtype), images
    return _curve(model, variables, images, maps, target, steps, batch_size, kwargs, ends)


def infidelity(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    maps: jax.Array,
    target: Target = None,
    *,
    key: jax.Array | None = None,
    kind: str = "noise",
    noise: float = 0.15,
    window: int | None = None,
    baseline: jax.Array | float = 0.0,
    multiplied: bool = False,
    normalize: bool = False,
    samples: int = 100,
    batch_size: int = 10,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return how far a map is from predicting the change of the score under random changes of the image.

    INFD = E[(I . map - (f(x) - f(x - I)))^2] over random I. It is 0 for the gradient of a linear network, and grows
    with the square of the score: compare maps of one network only. A map without channels holds for each channel.

    Source: Yeh et al. 2019, arXiv:1901.09392, definition 2.1; differs: nothing. ``multiplied`` and ``normalize`` are
    captum's multiply_by_inputs and normalize.

    Args:
      model, variables, images, maps, **kwargs: as in `deletion`.
      target: as in `deletion`; of a class the score itself is taken, as in `cnnjax.explain.saliency`.
      key: of the changes; None for ``jax.random.key(0)``.
      kind: "noise" (normal noise is subtracted) or "square" (a square at a random place, within the image, becomes the
        baseline).
      noise: standard deviation of the noise, in units of each image's largest minus smallest value.
      window: side of the square, pixels; None for a quarter of the smaller side.
      baseline: a number or an array that broadcasts against images.
      multiplied: the map is a gradient times the difference to the baseline already, as input_x_gradient,
        integrated_gradients and occlusion are: I is divided by that difference in the product.
      normalize: scale the map by the factor that makes the infidelity smallest, for maps of no unit such as CAMs.
      samples: number of random changes, and of passes.
      batch_size: changes whose images go through the network together.
      layer: the path of a layer whose output is explained instead of the network's.
    Returns:
      float32[batch].
    Raises:
      ValueError: as in `deletion`; an unknown kind; noise below 0, or a square larger than the image.
    """
    images = check_images(images)
    height, width = images.shape[1:3]
    side = max(min(height, width) // 4, 1) if window is None else window
    check_count("samples", samples)
    check_count("window", side)
    if kind not in INFIDELITY_KINDS:
        raise ValueError(f"kind must be one of {', '.join(INFIDELITY_KINDS)}, got {kind!r}")
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    if side > min(height, width):
        raise ValueError(f"window must be at most the images' {height}x{width}, got {side}")
    weights = check_maps(maps, images)
    target = fixed_target(model, variables, images, target, layer, kwargs)
    score = score_function(model, variables, target, layer, kwargs)
    before = score(images)
    clean = images.astype(jnp.float32)
    difference = clean - broadcast_baseline(baseline, images).astype(jnp.float32)
    spread = noise * (clean.max((1, 2, 3), keepdims=True) - clean.min((1, 2, 3), keepdims=True))

    def change(key: jax.Array) -> jax.Array:
        if kind == "noise":
            return spread * jax.random.normal(key, images.shape, jnp.float32)
        down, right = jax.random.split(key)
        top = jax.random.randint(down, (), 0, height - side + 1)
        left = jax.random.randint(right, (), 0, width - side + 1)
        row, column = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        return jnp.where(inside[None, :, :, None], difference, 0)

    def moments(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        taken = change(key)
        real = before - score((clean - taken).astype(images.dtype))
        if multiplied:
            taken = jnp.where(difference == 0, 0, taken / jnp.where(difference == 0, 1, difference))
        said = (taken * weights).sum((1, 2, 3))
        # These are taken of the differences, not of their parts, which are large and nearly equal.
        return (said - real) ** 2, said * real, said**2

    keys = jax.random.split(jax.random.key(0) if key is None else key, samples)
    if not normalize:
        return sum_over(lambda key: moments(key)[0], keys, batch_size) / samples
    _, together, alone = sum_over(moments, keys, batch_size)
    factor = jnp.where(alone > 0, together / jnp.where(alone > 0, alone, 1), 0)
    weights = weights * factor[:, None, None, None]
    return sum_over(lambda key: moments(key)[0], keys, batch_size) / samples


def sensitivity(
    method: Callable[..., Any],
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    key: jax.Array | None = None,
    radius: float = 0.02,
    samples: int = 10,
    **kwargs: Any,
) -> jax.Array:
    """Return by which share of its norm a map changes at most when the image changes a little.

    max |map(x + d) - map(x)| / |map(x)| over random d with no value beyond the radius; a good map has a small one.

    Source: Yeh et al. 2019, arXiv:1901.09392, section 3 (max-sensitivity); differs: relative to the map's norm, and
    random changes of each value, as in captum.

    Args:
      method: one of `cnnjax.explain`, such as ``explain.saliency``, or a function that is called like it.
      model, variables, images: as in `deletion`.
      target: as in `cnnjax.explain.saliency`; a top class is that of the images before they change. Not None with
        ``layer``.
      key: of the changes; None for ``jax.random.key(0)``.
      radius: largest change of a value, in the units that the network takes.
      samples: number of changes; the method runs once for each, and once before.
      **kwargs: for the method.
    Returns:
      float32[batch]; 0 where a map is zero before and after, infinite where it is zero before only.
    Raises:
      ValueError: as the method; a layer without a target; a radius that is not above 0, or no sample.
    """
    images = check_images(images)
    check_count("samples", samples)
    if not radius > 0:
        raise ValueError(f"radius must be > 0, got {radius}")
    target = method_target(method, model, variables, images, target, kwargs)

    def norms(maps: jax.Array) -> jax.Array:
        return jnp.sqrt((maps.astype(jnp.float32) ** 2).sum(tuple(range(1, maps.ndim))))

    before = method(model, variables, images, target, **kwargs)

    def change(key: jax.Array) -> jax.Array:
        moved = jax.random.uniform(key, images.shape, jnp.float32, -radius, radius)
        changed = images + moved.astype(images.dtype)
        return norms(method(model, variables, changed, target, **kwargs) - before)

    keys = jax.random.split(jax.random.key(0) if key is None else key, samples)
    largest, size = jax.lax.map(change, keys).max(0), norms(before)
    return jnp.where(size > 0, largest / jnp.where(size > 0, size, 1), jnp.where(largest > 0, jnp.inf, 0))
