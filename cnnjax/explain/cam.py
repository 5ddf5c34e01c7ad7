"""Class activation maps: a layer's channels, summed with weights that a score decides.

Maps are rectified and not scaled: divide by ``maps.max((1, 2), keepdims=True)`` to draw them. They are of the last
layer with positions by default; ``layer`` names another, such as "stage3" or "stage3/block2/conv1".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.explain.layers import activations_and_gradients, find_layer
from cnnjax.explain.passes import check_count
from cnnjax.explain.targets import Target, check_images, fixed_target, network_outputs, pick, probability_function


def _resized(maps: jax.Array, images: jax.Array, resize: bool) -> jax.Array:
    """Return maps rectified, and interpolated to the images' size if asked for."""
    maps = jax.nn.relu(maps)
    return jax.image.resize(maps, images.shape[:3], "bilinear", antialias=False) if resize else maps


def _weighted(
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target,
    layer: str | None,
    resize: bool,
    kwargs: Mapping[str, Any],
) -> jax.Array:
    images = check_images(images)
    path = find_layer(model, variables, images, layer, kwargs)
    activations, gradients = activations_and_gradients(model, variables, images, target, path, kwargs)
    return _resized(combine(activations, gradients), images, resize)


def grad_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    **kwargs: Any,
) -> jax.Array:
    """Return the sum of a layer's channels, each weighted with its mean gradient.

    On a network that ends in global average pooling and a dense layer it is CAM (Zhou et al. 2015, arXiv:1512.04150)
    divided by the number of positions.

    Source: Selvaraju et al. 2016, arXiv:1610.02391, section 3; differs: nothing. captum's LayerGradCam is not rectified
    unless told so (relu_attributions) and keeps the layer's size; PAIR's saliency scales a resized map to 1.

    Args:
      model: the network, any Linen module.
      variables: its variables.
      images: float[batch, height, width, channels], as the network takes them.
      target: None (each image's top class), an int, int[batch], or a function of the outputs that returns float[batch].
      layer: path of a layer whose output has positions; None for the last one that follows a convolution.
      resize: interpolate the map to the images' size.
      **kwargs: for ``model.apply``.
    Returns:
      float32[batch, height, width], of the layer's height and width without ``resize``; not negative.
    Raises:
      ValueError: images or a target that cannot be explained; an unknown layer (near names are listed), one without
        positions, or a network without convolutions.
    """

    def combine(activations: jax.Array, gradients: jax.Array) -> jax.Array:
        return (gradients.mean((1, 2), keepdims=True) * activations).sum(-1)

    return _weighted(combine, model, variables, images, target, layer, resize, kwargs)


def grad_cam_plus_plus(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    **kwargs: Any,
) -> jax.Array:
    """Return the sum of a layer's channels, weighted with their positive gradients, rarer ones more.

    Source: Chattopadhay et al. 2017, arXiv:1710.11063, equations 19 and 10 (of the exponential of the score); differs:
    the factor exp(score), the same at all positions, is left out.

    Args:
      model, variables, images, target, layer, resize, **kwargs: as in `grad_cam`.
    Returns:
      As `grad_cam`.
    Raises:
      ValueError: as in `grad_cam`.
    """

    def combine(activations: jax.Array, gradients: jax.Array) -> jax.Array:
        # The fraction is g^2 / (2 g^2 + sum(A) g^3) with g^2 cancelled, so that small gradients do not underflow.
        below = 2 + activations.sum((1, 2), keepdims=True) * gradients
        usable = (gradients != 0) & (below != 0)
        shares = jnp.where(usable, 1 / jnp.where(usable, below, 1), 0)
        weights = (shares * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
        return (weights * activations).sum(-1)

    return _weighted(combine, model, variables, images, target, layer, resize, kwargs)


def layer_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    **kwargs: Any,
) -> jax.Array:
    """Return the sum of a layer's channels, each position weighted with its own gradient where that is positive.

    Source: Jiang et al. 2021, "LayerCAM: exploring hierarchical class activation maps for localization", IEEE TIP 30,
    equations 6 and 7; differs: nothing.

    Args:
      model, variables, images, target, layer, resize, **kwargs: as in `grad_cam`; suits early layers too.
    Returns:
      As `grad_cam`.
    Raises:
      ValueError: as in `grad_cam`.
    """

    def combine(activations: jax.Array, gradients: jax.Array) -> jax.Array:
        return (jax.nn.relu(gradients) * activations).sum(-1)

    return _weighted(combine, model, variables, images, target, layer, resize, kwargs)


def hires_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    **kwargs: Any,
) -> jax.Array:
    """Return the sum over channels of a layer's output times the gradient there, position by position.

    Source: Draelos and Carin 2020, arXiv:2011.08891, equation 7; differs: rectified, as all maps here.

    Args:
      model, variables, images, target, layer, resize, **kwargs: as in `grad_cam`.
    Returns:
      As `grad_cam`.
    Raises:
      ValueError: as in `grad_cam`.
    """

    def combine(activations: jax.Array, gradients: jax.Array) -> jax.Array:
        return (gradients * activations).sum(-1)

    return _weighted(combine, model, variables, images, target, layer, resize, kwargs)


def eigen_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    **kwargs: Any,
) -> jax.Array:
    """Return the first principal component of a layer's channels; no class and no gradient takes part.

    Source: Muhammad and Yeasin 2020, arXiv:2008.00299, section III; differs: channels are centred, as in
    pytorch-grad-cam, and the sign, which the paper leaves open, is that which agrees with the sum of the channels.

    Args:
      model, variables, images, layer, resize, **kwargs: as in `grad_cam`.
      target: checked, and not used.
    Returns:
      As `grad_cam`.
    Raises:
      ValueError: as in `grad_cam`.
    """
    images = check_images(images)
    path = find_layer(model, variables, images, layer, kwargs)
    if target is not None:
        jax.eval_shape(lambda v, x: pick(model.apply(v, x, **kwargs), target), variables, images)
    maps = network_outputs(model, variables, images, path, kwargs).astype(jnp.float32)
    batch, height, width, channels = maps.shape
    rows = maps.reshape(batch, height * width, channels)
    rows = rows - rows.mean(1, keepdims=True)
    left, sizes, _ = jnp.linalg.svd(rows, full_matrices=False)
    first = left[:, :, 0] * sizes[:, :1]
    agrees = (first * rows.sum(-1)).sum(1, keepdims=True)
    return _resized(jnp.where(agrees < 0, -first, first).reshape(batch, height, width), images, resize)


def score_cam(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    resize: bool = True,
    batch_size: int = 16,
    **kwargs: Any,
) -> jax.Array:
    """Return the sum of a layer's channels, each weighted with the score of the image seen through it alone.

    A channel is interpolated to the image's size and scaled to [0, 1]; the image times that goes through the network.
    Weights are the softmax of these scores over channels. One pass per channel, without gradients.

    Source: Wang et al. 2019, arXiv:1910.01279, algorithm 1; differs: scores are not taken relative to that of a black
    image, which softmax cancels.

    Args:
      model, variables, images, target, layer, resize, **kwargs: as in `grad_cam`; of classes, probabilities are taken.
      batch_size: channels whose images go through the network together.
    Returns:
      As `grad_cam`.
    Raises:
      ValueError: as in `grad_cam`.
    """
    images = check_images(images)
    check_count("batch_size", batch_size)
    path = find_layer(model, variables, images, layer, kwargs)
    target = fixed_target(model, variables, images, target, None, kwargs)
    score = probability_function(model, variables, target, kwargs)
    maps = network_outputs(model, variables, images, path, kwargs).astype(jnp.float32)

    def seen_through(channel: jax.Array) -> jax.Array:
        mask = jax.image.resize(channel, images.shape[:3], "bilinear", antialias=False)
        low, high = mask.min((1, 2), keepdims=True), mask.max((1, 2), keepdims=True)
        mask = (mask - low) / jnp.where(high > low, high - low, 1)
        return score(images * mask[..., None].astype(images.dtype))

    scores = jax.lax.map(seen_through, jnp.moveaxis(maps, -1, 0), batch_size=batch_size)
    weights = jax.nn.softmax(scores, axis=0).T[:, None, None, :]
    return _resized((weights * maps).sum(-1), images, resize)
