"""Convolutions that XLA gives to cuDNN in a form for which it has no fast program, written in one for which it has.

cuDNN knows strided convolutions, and their gradients of images and kernels. What else XLA is asked for becomes a
convolution of another size. Compiled for an H100, it makes

- of dilated images (a transposed convolution), images with zeros between their pixels, all but one in four with stride
  2; and of the gradient of the kernel, a convolution whose window is the whole image, zeros included;
- of the gradient of a dilated kernel, a convolution whose window is the whole image.

Here a transposed convolution and its gradients are those of the strided convolution that it transposes, and a dilated
kernel's gradient is that of a kernel without gaps over the images of every d-th pixel. Both are sums of the same
products.

All shapes are [batch, spatial..., channels] for images and [window..., channels / groups, features] for kernels.
"""

from __future__ import annotations

import dataclasses

import jax
from jax import lax

from cnnjax.nn.conv_cpu.forms import turned
from cnnjax.nn.conv_cpu.native import NATIVE
from cnnjax.nn.slices import Geometry, Shape, pad


def is_transposed(window: Shape, geometry: Geometry) -> bool:
    """Return whether a convolution over dilated images is the transpose of a strided one, which cuts nothing off."""
    if max(geometry.input_dilation) == 1 or max(*geometry.strides, *geometry.kernel_dilation, geometry.groups) > 1:
        return False
    return all(max(low, high) < k for k, (low, high) in zip(window, geometry.padding, strict=True))


def has_gaps(window: Shape, geometry: Geometry) -> bool:
    """Return whether the kernel is dilated, at each place of images that are not."""
    if max(*geometry.strides, *geometry.input_dilation) > 1:
        return False
    return any(k > 1 and d > 1 for k, d in zip(window, geometry.kernel_dilation, strict=True))


def transposed_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return the convolution as the gradient of a strided one; see `is_transposed`."""
    window = kernel.shape[:-2]
    size = geometry.output_size(images.shape[1:-1], window)
    # XLA knows the gradient by the kernel that it turns, and would cancel that with this turn.
    kernel = lax.optimization_barrier(turned(kernel))
    return NATIVE.input_gradient(images, kernel, size=size, geometry=_strided(window, geometry))


def transposed_input(cotangent: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return the images' cotangent, a strided convolution; see `is_transposed`."""
    return NATIVE.convolve(cotangent, turned(kernel), geometry=_strided(kernel.shape[:-2], geometry))


def kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel's cotangent where `is_transposed` or `has_gaps`."""
    if is_transposed(window, geometry):
        strided = _strided(window, geometry)
        return turned(NATIVE.kernel_gradient(cotangent, images, window=window, geometry=strided))
    return _kernel_with_gaps(images, cotangent, window, geometry)


def _strided(window: Shape, geometry: Geometry) -> Geometry:
    """Return the geometry of the convolution that one over dilated images transposes."""
    padding = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(window, geometry.padding, strict=True))
    ones = (1,) * len(window)
    return dataclasses.replace(geometry, strides=geometry.input_dilation, input_dilation=ones, padding=padding)


def _kernel_with_gaps(images: jax.Array, cotangent: jax.Array, window: Shape, geometry: Geometry) -> jax.Array:
    gaps = geometry.kernel_dilation
    # Places of the result up to a multiple of the gaps, of which the last have no cotangent; and what they see.
    places = [-(-n // d) * d for n, d in zip(cotangent.shape[1:-1], gaps, strict=True)]
    cotangent = pad(cotangent, [(0, m - n) for n, m in zip(cotangent.shape[1:-1], places, strict=True)])
    seen = [m + (k - 1) * d for m, k, d in zip(places, window, gaps, strict=True)]
    padding = [
        (low, total - n - low) for (low, _), n, total in zip(geometry.padding, images.shape[1:-1], seen, strict=True)
    ]
    none = dataclasses.replace(geometry, padding=((0, 0),) * len(gaps), kernel_dilation=(1,) * len(gaps))
    images, cotangent = (_every(array, gaps) for array in (pad(images, padding), cotangent))
    return NATIVE.kernel_gradient(images, cotangent, window=window, geometry=none)


def _every(images: jax.Array, steps: Shape) -> jax.Array:
    """Return the images of every ``steps``-th pixel, from each first one: batch * prod(steps) smaller images."""
    rank = len(steps)
    parts = [part for n, d in zip(images.shape[1:-1], steps, strict=True) for part in (n // d, d)]
    images = images.reshape(images.shape[0], *parts, images.shape[-1])
    firsts, places = range(2, 2 * rank + 1, 2), range(1, 2 * rank + 1, 2)
    images = images.transpose(*firsts, 0, *places, 2 * rank + 1)
    return images.reshape(-1, *images.shape[rank + 1 :])
