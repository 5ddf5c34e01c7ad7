"""Small maps: what the window sees at each place is written side by side and multiplied with the kernel."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.slices import Geometry, Shape, fused_sum, pad, shifted, taps_of

# Most pixels of a result that are computed by one product with the whole kernel.
SMALL_MAP = 64
# Most channels that are gathered axis by axis, and whose first layers are computed so on larger maps.
FEW_CHANNELS = 4


def smaller_than_window(size: Shape, window: Shape) -> bool:
    """Return whether the images have fewer pixels than the window along an axis, before any dilation.

    There XLA's convolution falls to 1 or 2 GFLOP/s.
    """
    return any(n < k for n, k in zip(size, window, strict=True))


def is_small(size: Shape, window: Shape, geometry: Geometry) -> bool:
    """Return whether the result has few pixels, or the images are `smaller_than_window`.

    On small maps a loop over the images multiplies matrices of few rows. What is written side by side takes as many
    times the memory of the images as the window has taps.
    """
    return math.prod(geometry.output_size(size, window)) <= SMALL_MAP or smaller_than_window(size, window)


def _seeing(window: Shape, size: Shape, geometry: Geometry) -> list[list[int]]:
    """Return the places along each axis of the window that see a pixel from anywhere, at least one.

    The others see padding alone.
    """
    out = geometry.output_size(size, window)
    axes = zip(window, size, out, geometry.strides, geometry.kernel_dilation, geometry.padding, strict=True)
    return [
        [t for t in range(k) if any(0 <= o * s + t * d - low < n for o in range(m))] or [0]
        for k, n, m, s, d, (low, _) in axes
    ]


def _side_by_side(images: jax.Array, seeing: list[list[int]], window: Shape, geometry: Geometry) -> jax.Array:
    """Return what the taps see, [batch, spatial..., taps * channels]."""
    out = geometry.output_size(images.shape[1:-1], window)
    seen = pad(images, geometry.padding)
    if images.shape[-1] > FEW_CHANNELS:
        return jnp.concatenate([shifted(seen, tap, out, geometry) for tap in itertools.product(*seeing)], -1)
    # Few numbers lie side by side to be copied at once. Axis by axis from the last, there are more with each.
    for axis, places in reversed(list(enumerate(seeing))):
        stride, starts = geometry.strides[axis], [place * geometry.kernel_dilation[axis] for place in places]
        reach = (out[axis] - 1) * stride + 1
        parts = [lax.slice_in_dim(seen, start, start + reach, stride, axis + 1) for start in starts]
        seen = jnp.concatenate(parts, -1)
    return seen


def _matrix(kernel: jax.Array, taps: list[Shape]) -> jax.Array:
    """Return the kernel of the taps, [taps * channels, features]."""
    if len(taps) < len(taps_of(kernel.shape[:-2])):
        kernel = jnp.concatenate([kernel[tap] for tap in taps])
    return kernel.reshape(-1, kernel.shape[-1])


def _patches_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    window = kernel.shape[:-2]
    seeing = _seeing(window, images.shape[1:-1], geometry)
    seen = _side_by_side(images, seeing, window, geometry)
    matrix = _matrix(kernel, list(itertools.product(*seeing)))
    product = lax.dot(seen.reshape(-1, seen.shape[-1]), matrix, precision=geometry.precision)
    return product.reshape(*seen.shape[:-1], -1)


def _patches_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    """Return the images' cotangent: the sum over the taps of one product's parts, each put where the tap saw."""
    window, channels, out = kernel.shape[:-2], kernel.shape[-2], cotangent.shape[1:-1]
    taps = list(itertools.product(*_seeing(window, size, geometry)))
    flat, last = cotangent.reshape(-1, cotangent.shape[-1]), (((1,), (1,)), ((), ()))
    product = lax.dot_general(flat, _matrix(kernel, taps), last, precision=geometry.precision)
    product = product.reshape(*cotangent.shape[:-1], -1)

    def seen_by(number: int, tap: Shape) -> jax.Array:
        part = lax.slice_in_dim(product, number * channels, (number + 1) * channels, axis=product.ndim - 1)
        firsts = [t * d - low for t, d, (low, _) in zip(tap, geometry.kernel_dilation, geometry.padding, strict=True)]
        places = [
            (first, n - first - (m - 1) * s - 1, s - 1)
            for first, n, m, s in zip(firsts, size, out, geometry.strides, strict=True)
        ]
        return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *places, (0, 0, 0)])

    return fused_sum([functools.partial(seen_by, number, tap) for number, tap in enumerate(taps)])


def _patches_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    channels, features = images.shape[-1], cotangent.shape[-1]
    seeing, every = _seeing(window, images.shape[1:-1], geometry), taps_of(window)
    taps = list(itertools.product(*seeing))
    product = over_pixels(_side_by_side(images, seeing, window, geometry), cotangent, geometry)
    if len(taps) < len(every):
        # What sees padding alone has no gradient.
        parts = dict(zip(taps, jnp.split(product, len(taps)), strict=True))
        zero = jnp.zeros_like(parts[taps[0]])
        product = jnp.concatenate([parts.get(tap, zero) for tap in every])
    return product.reshape(*window, channels, features)


PATCHES = Forms(_patches_convolve, _patches_input, _patches_kernel)
