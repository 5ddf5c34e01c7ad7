"""Dense windows: which form is fastest for the values and for each gradient, by the channels on both sides.

Where one side has few channels, what the window sees of it is written side by side for all pixels at once, and the rest
is one product of matrices: XLA's convolutions of three channels, or to three, take several times as long.
"""

from __future__ import annotations

import math

import jax

from cnnjax.nn.conv_cpu.by_phase import input_by_phase
from cnnjax.nn.conv_cpu.eigen import EIGEN
from cnnjax.nn.conv_cpu.forms import Forms, back_to_front
from cnnjax.nn.conv_cpu.patches import FEW_CHANNELS, PATCHES
from cnnjax.nn.slices import Geometry, Shape

# Measured on two cores with AVX-512, as all numbers here: of 3 channels XLA takes 1.4 to 6 times as long for 3x3
# windows and 24 to 64 features, as long for 16 features, and half as long for 7x7 windows.
SMALL_WINDOW = 25
# With 1 to 8 features, values take 0.3 to 0.6 of the time of XLA's, and gradients of kernels 0.4 to 1 of Eigen's. From
# 12 on it is no gain for values.
FEW_FEATURES = 8
# What is written side by side for all pixels at once takes at most so many times the memory of the other side.
COPIES = 5

_PATCHES_BACK, _EIGEN_BACK = back_to_front(PATCHES), back_to_front(EIGEN)


def fits(window: Shape, few: int, many: int) -> bool:
    """Return whether what a window sees of a side with few channels, side by side, takes little more than the other."""
    return math.prod(window) * few <= COPIES * many


def _convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    return _for_values(kernel, geometry, FEW_FEATURES).convolve(images, kernel, geometry=geometry)


def _input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    if set(geometry.strides) != {1} and set(geometry.kernel_dilation) == {1}:
        return input_by_phase(cotangent, kernel, size=size, geometry=geometry, convolve=_convolve)
    # What is gathered is the cotangent, so that its channels have to be few, and the window small.
    small = math.prod(kernel.shape[:-2]) <= SMALL_WINDOW
    form = _for_values(kernel, geometry, FEW_CHANNELS if small else 0)
    return form.input_gradient(cotangent, kernel, size=size, geometry=geometry)


def _for_values(kernel: jax.Array, geometry: Geometry, few_features: int) -> Forms:
    *window, channels, features = kernel.shape
    if channels <= FEW_CHANNELS and math.prod(window) <= SMALL_WINDOW and fits(tuple(window), channels, features):
        return PATCHES
    few = features <= few_features and set(geometry.strides) == {1} and fits(tuple(window), features, channels)
    return _PATCHES_BACK if few else EIGEN


def _kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    channels, features = images.shape[-1], cotangent.shape[-1]
    unstrided = set(geometry.strides) == {1}
    if channels <= FEW_CHANNELS and fits(window, channels, features):
        form = PATCHES
    elif unstrided and features <= FEW_FEATURES and fits(window, features, channels):
        form = _PATCHES_BACK
    elif unstrided and 2 * features <= channels:
        # The channels that count as images are then the fewer: 0.5 to 1.05, mostly 0.8, of the time the other way.
        form = _EIGEN_BACK
    else:
        form = EIGEN
    return form.kernel_gradient(images, cotangent, window=window, geometry=geometry)


DENSE = Forms(_convolve, _input_gradient, _kernel_gradient)
