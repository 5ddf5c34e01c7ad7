"""Convolutions by oneDNN, where `cnnjax.nn.onednn` has asked for it: no form of ours is as fast for most shapes.

XLA gives oneDNN undilated images without negative padding, and no kernels that the operation just before has turned
round. Each convolution is computed `apart`: with sums that read it, as those of a normalisation, YNNPACK would take it.
XLA calls none of oneDNN's gradients of kernels: at stride 1 they stay with the other forms.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.nn.conv_cpu.by_phase import input_by_phase
from cnnjax.nn.conv_cpu.dense import SMALL_WINDOW, fits
from cnnjax.nn.conv_cpu.forms import Forms, turned_geometry
from cnnjax.nn.conv_cpu.native import native_convolve
from cnnjax.nn.conv_cpu.patches import FEW_CHANNELS
from cnnjax.nn.slices import Geometry, Shape, apart


def by_onednn(forms: Forms) -> Forms:
    """Return forms for windows over undilated images, which are oneDNN's in float32, or ``forms`` where those are not.

    Args:
      forms: for the same convolutions without oneDNN.
    """

    def convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
        if images.dtype != jnp.float32:
            return forms.convolve(images, kernel, geometry=geometry)
        return _convolve(images, kernel, geometry=geometry)

    def input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
        if cotangent.dtype == jnp.float32 and set(geometry.strides) == {1}:
            back = turned_geometry(geometry, kernel.shape[:-2], size, cotangent.shape[1:-1])
            return _convolve(cotangent, _turned(kernel, geometry.groups), geometry=back)
        if cotangent.dtype == jnp.float32 and geometry.groups == 1 and set(geometry.kernel_dilation) == {1}:
            return input_by_phase(cotangent, kernel, size=size, geometry=geometry, convolve=_convolve)
        return forms.input_gradient(cotangent, kernel, size=size, geometry=geometry)

    def kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
        channels, taps = images.shape[-1], math.prod(window)
        # A product of what small windows see of few channels is faster.
        product = channels <= FEW_CHANNELS and taps <= SMALL_WINDOW and fits(window, channels, cotangent.shape[-1])
        strided = geometry.groups == 1 and set(geometry.strides) != {1}
        if images.dtype == jnp.float32 and strided and not (product and len(window) == 2):
            return _strided_kernel(images, cotangent, window=window, geometry=geometry)
        return forms.kernel_gradient(images, cotangent, window=window, geometry=geometry)

    return Forms(convolve, input_gradient, kernel_gradient)


def _convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    return apart(lambda: native_convolve(images, kernel, geometry=geometry))


def _turned(kernel: jax.Array, groups: int) -> jax.Array:
    """Return the kernel that goes from features to channels, group by group."""
    *window, channels, features = kernel.shape
    parts = jnp.flip(kernel, tuple(range(len(window)))).reshape(*window, channels, groups, features // groups)
    return jnp.swapaxes(parts, -1, -3).reshape(*window, features // groups, groups * channels)


def _strided_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient of strided windows: channels count as images, the cotangent is a dilated kernel."""
    rank = len(window)
    channels_first: Any = (rank + 1, *range(1, rank + 1), 0)
    pixels_first: Any = (*range(1, rank + 1), 0, rank + 1)
    axes = zip(geometry.padding, window, geometry.kernel_dilation, geometry.strides, strict=True)
    places = zip(axes, images.shape[1:-1], cotangent.shape[1:-1], strict=True)
    # Up to the last pixel that a window sees, so that the result has the size of the window.
    padding = tuple((low, (k - 1) * d + (m - 1) * s + 1 - n - low) for ((low, _), k, d, s), n, m in places)
    back = dataclasses.replace(
        geometry, strides=geometry.kernel_dilation, padding=padding, kernel_dilation=geometry.strides
    )
    return _convolve(images.transpose(channels_first), cotangent.transpose(pixels_first), geometry=back).transpose(
        pixels_first
    )
