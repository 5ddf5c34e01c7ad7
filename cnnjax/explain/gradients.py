"""Attribution to pixels by gradients.

Signs are kept: a positive value means that a larger pixel raises the score. Take ``abs(maps).max(-1)`` for the map that
Simonyan et al. print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.explain.passes import check_count, sum_over
from cnnjax.explain.targets import Target, broadcast_baseline, check_images, fixed_target, score_function

SMOOTH_GRAD_KINDS = ("mean", "squared", "variance")


def gradient_of(score: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return the function that gives the gradient of each image's own score, float32 and of the images' shape."""
    gradient = jax.grad(lambda images: score(images).sum())
    return lambda images: gradient(images).astype(jnp.float32)


def saliency(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return the gradient of the score with respect to the pixels.

    Source: Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034, section 3; differs: signed and for each channel (the
    paper shows the largest magnitude over channels; captum takes magnitudes unless told not to, with abs=False).

    Args:
      model: the network, any Linen module.
      variables: its variables.
      images: float[batch, height, width, channels], as the network takes them.
      target: None (each image's top class), an int, int[batch], or a function of the outputs that returns float[batch].
      layer: the path of a layer whose output is explained instead of the network's; see `pick`.
      **kwargs: for ``model.apply``.
    Returns:
      float32[batch, height, width, channels].
    Raises:
      ValueError: images or a target that cannot be explained, or an unknown layer; see `check_images` and `pick`.
    """
    images = check_images(images)
    return gradient_of(score_function(model, variables, target, layer, kwargs))(images)


def input_x_gradient(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return the pixels times the gradient of the score.

    Source: Shrikumar et al. 2016, arXiv:1605.01713, section 2.2; differs: nothing.

    Args:
      model, variables, images, target, layer, **kwargs: as in `saliency`.
    Returns:
      float32[batch, height, width, channels].
    Raises:
      ValueError: as in `saliency`.
    """
    images = check_images(images)
    return saliency(model, variables, images, target, layer=layer, **kwargs) * images.astype(jnp.float32)


def smooth_grad(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    key: jax.Array | None = None,
    samples: int = 25,
    noise: float = 0.15,
    kind: str = "mean",
    batch_size: int = 5,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return the mean, the mean square or the variance of the gradient over noisy copies of each image.

    Source: Smilkov et al. 2017, arXiv:1706.03825, section 3; VarGrad ("variance"): Adebayo et al. 2018,
    arXiv:1810.03307; differs: signed (PAIR's implementation squares by default).

    Args:
      model, variables, images, target, layer, **kwargs: as in `saliency`; a top class is that of the clean images.
      key: of the noise; None for ``jax.random.key(0)``.
      samples: number of noisy copies.
      noise: standard deviation of the noise, in units of each image's largest minus smallest value.
      kind: "mean" (SmoothGrad), "squared" (its variant with squares) or "variance" (VarGrad).
      batch_size: copies of all images that go through the network together.
    Returns:
      float32[batch, height, width, channels].
    Raises:
      ValueError: as in `saliency`; an unknown kind; no sample, or only one for "variance"; noise below 0.
    """
    images = check_images(images)
    if kind not in SMOOTH_GRAD_KINDS:
        raise ValueError(f"kind must be one of {', '.join(SMOOTH_GRAD_KINDS)}, got {kind!r}")
    check_count("samples", samples, 2 if kind == "variance" else 1)
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    target = fixed_target(model, variables, images, target, layer, kwargs)
    gradient = gradient_of(score_function(model, variables, target, layer, kwargs))
    clean = images.astype(jnp.float32)
    spread = noise * (clean.max((1, 2, 3), keepdims=True) - clean.min((1, 2, 3), keepdims=True))
    # Deviations from the clean images' gradients: their squares lose nothing to the mean's size.
    centre = gradient(images) if kind == "variance" else jnp.zeros(images.shape, jnp.float32)

    def moments(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        noisy = clean + spread * jax.random.normal(key, images.shape, jnp.float32)
        found = gradient(noisy.astype(images.dtype)) - centre
        return found, found * found

    keys = jax.random.split(jax.random.key(0) if key is None else key, samples)
    total, squares = sum_over(moments, keys, batch_size)
    if kind == "mean":
        return total / samples
    if kind == "squared":
        return squares / samples
    return jnp.maximum(squares / samples - (total / samples) ** 2, 0)


def integrated_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    baseline: jax.Array | float = 0.0,
    steps: int = 50,
    batch_size: int = 5,
    completeness: bool = False,
    layer: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the difference to a baseline times the mean gradient on the straight line from it to each image.

    The integral is a Gauss-Legendre sum, as in captum. The maps of an image sum to the difference of the scores of the
    image and of the baseline, up to the error of that sum.

    Source: Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 3; differs: the paper sums over equally spaced
    points, as PAIR's saliency does (there both ends count in full, so that it needs more points for the same error).

    Args:
      model, variables, images, target, layer, **kwargs: as in `saliency`; a top class is that of the images.
      baseline: a number or an array that broadcasts against the images; 0 is the mean colour of normalised images.
      steps: points on the line.
      batch_size: points that go through the network together.
      completeness: return the error too.
    Returns:
      float32[batch, height, width, channels]; with ``completeness`` a pair of that and float32[batch], the sum of each
      map minus the difference of the scores.
    Raises:
      ValueError: as in `saliency`; a baseline of another shape; no step.
    """
    images = check_images(images)
    check_count("steps", steps)
    start = broadcast_baseline(baseline, images).astype(jnp.float32)
    target = fixed_target(model, variables, images, target, layer, kwargs)
    score = score_function(model, variables, target, layer, kwargs)
    gradient = gradient_of(score)
    line = images.astype(jnp.float32) - start
    places, weights = np.polynomial.legendre.leggauss(steps)

    def weighted(point: tuple[jax.Array, jax.Array]) -> jax.Array:
        place, weight = point
        return weight * gradient((start + place * line).astype(images.dtype))

    points = jnp.asarray((places + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32)
    maps = line * sum_over(weighted, points, batch_size)
    if not completeness:
        return maps
    return maps, maps.sum((1, 2, 3)) - (score(images) - score(start.astype(images.dtype)))
