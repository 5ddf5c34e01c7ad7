"""Images of few channels: what a small window sees at each place, side by side, times the kernel."""

from __future__ import annotations

import math

import jax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.looped import LOOPED
from cnnjax.nn.conv_cpu.patches import PATCHES
from cnnjax.nn.slices import Geometry, Shape

# Windows of more taps are left to XLA's convolution, but for the kernel gradient. Measured on two cores with AVX-512,
# for 3 channels: XLA takes 1.4 to 6 times as long for 3x3 windows and up to 64 features, half as long for 7x7 windows.
SMALL_WINDOW = 25
# What is written side by side takes at most so many times the memory of the result.
COPIES = 5


def _has_memory(window: Shape, channels: int, features: int) -> bool:
    return math.prod(window) * channels <= COPIES * features


def _is_spread(kernel: jax.Array) -> bool:
    """Return whether the images, or their cotangent, are computed by way of what each window sees."""
    *window, channels, features = kernel.shape
    return math.prod(window) <= SMALL_WINDOW and _has_memory(tuple(window), channels, features)


def _convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    form = PATCHES if _is_spread(kernel) else LOOPED
    return form.convolve(images, kernel, geometry=geometry)


def _input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    form = PATCHES if _is_spread(kernel) else LOOPED
    return form.input_gradient(cotangent, kernel, size=size, geometry=geometry)


def _kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    form = PATCHES if _has_memory(window, images.shape[-1], cotangent.shape[-1]) else LOOPED
    return form.kernel_gradient(images, cotangent, window=window, geometry=geometry)


FIRST = Forms(_convolve, _input_gradient, _kernel_gradient)
