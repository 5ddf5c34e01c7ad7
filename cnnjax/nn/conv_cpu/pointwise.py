"""1x1 windows: matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.slices import Geometry, Shape

# A sum over pixels is computed in two halves, the smaller matrix first, where their addition costs less than it gains.
# Measured on two cores with AVX-512, for 1x1 kernels: with fewer features than channels, and at least
# PIXELS_PER_FEATURE pixels for each feature, it takes 0.35 to 0.9 of the time. Otherwise, with at least HALVED_PIXELS
# pixels, it takes 0.8 to 0.9, but 1.2 to 1.9 with fewer than HALVED_CHANNELS channels.
PIXELS_PER_FEATURE = 64
HALVED_PIXELS = 1 << 13
HALVED_CHANNELS = 64


def _dot(left: jax.Array, right: jax.Array, axes: Any, geometry: Geometry) -> jax.Array:
    return lax.dot_general(left, right, (axes, ((), ())), precision=geometry.precision)


def split(array: jax.Array, groups: int) -> list[jax.Array]:
    """Return the channels of each group."""
    return jnp.split(array, groups, axis=-1) if groups > 1 else [array]


def join(arrays: Sequence[jax.Array]) -> jax.Array:
    """Undo `split`."""
    return jnp.concatenate(arrays, -1) if len(arrays) > 1 else arrays[0]


def _visited(images: jax.Array, geometry: Geometry) -> jax.Array:
    return lax.slice(images, (0,) * images.ndim, images.shape, (1, *geometry.strides, 1))


def pointwise_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return a convolution with a window of one pixel and no padding."""
    images, kernel = _visited(images, geometry), kernel.reshape(kernel.shape[-2:])
    pairs = zip(split(images, geometry.groups), split(kernel, geometry.groups), strict=True)
    return join([_dot(part, weights, ((part.ndim - 1,), (0,)), geometry) for part, weights in pairs])


def _pointwise_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    kernel = kernel.reshape(kernel.shape[-2:])
    pairs = zip(split(cotangent, geometry.groups), split(kernel, geometry.groups), strict=True)
    images = join([_dot(part, weights, ((part.ndim - 1,), (1,)), geometry) for part, weights in pairs])
    # Pixels that the window stepped over have no influence.
    config = [
        (0, n - (m - 1) * s - 1, s - 1) for n, m, s in zip(size, images.shape[1:-1], geometry.strides, strict=True)
    ]
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def over_pixels(images: jax.Array, cotangent: jax.Array, geometry: Geometry) -> jax.Array:
    """Return the product [channels, features] that is summed over the pixels of all images.

    As matrices: of a product over several axes XLA would transpose an argument first, pixel by pixel.
    """
    channels, features = images.shape[-1], cotangent.shape[-1]
    left, right = images.reshape(-1, channels), cotangent.reshape(-1, features)
    if not _in_halves(left.shape[0], channels, features):
        return _dot(left, right, ((0,), (0,)), geometry)
    if channels > features:
        left, right = right, left
    left, right = (array.reshape(2, array.shape[0] // 2, -1) for array in (left, right))
    product = lax.dot_general(left, right, (((1,), (1,)), ((0,), (0,))), precision=geometry.precision).sum(0)
    return product.T if channels > features else product


def _in_halves(pixels: int, channels: int, features: int) -> bool:
    # An exported program may be of any number of images.
    if not isinstance(pixels, int) or pixels % 2:
        return False
    if channels > features:
        return pixels >= PIXELS_PER_FEATURE * features
    return pixels >= HALVED_PIXELS and channels >= HALVED_CHANNELS


def _pointwise_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    images = _visited(images, geometry)
    pairs = zip(split(images, geometry.groups), split(cotangent, geometry.groups), strict=True)
    kernel = join([over_pixels(part, ct, geometry) for part, ct in pairs])
    return kernel.reshape(*window, *kernel.shape)


POINTWISE = Forms(pointwise_convolve, _pointwise_input, _pointwise_kernel)
