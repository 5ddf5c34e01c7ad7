"""Dense windows: XLA's convolution, made to use all cores, and the kernel gradient in a loop over blocks of rows."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms, turned
from cnnjax.nn.conv_cpu.native import native_convolve, native_input
from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.conv_cpu.rows import rows_in_cache, rows_seen, varying_as
from cnnjax.nn.slices import Geometry, Shape, pad, shifted, taps_of

# Largest block of images spread out for a product, in elements, that stays in cache.
BLOCK_ELEMENTS = 1 << 19


def _looped_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient as a sum of products over blocks of rows of each image.

    What the window sees at each place of a block of rows is written side by side and multiplied with the cotangent
    there, while both are in cache.
    """
    batch, rows, columns, features = cotangent.shape
    channels, taps = images.shape[-1], taps_of(window)
    height = rows_in_cache(rows, columns * len(taps) * channels, BLOCK_ELEMENTS)
    padded = pad(images, geometry.padding)
    reach = (rows_seen(height, window[0], geometry), padded.shape[2])

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        image, top = index // (rows // height), index % (rows // height) * height
        seen = lax.dynamic_slice(padded, (image, top * geometry.strides[0], 0, 0), (1, *reach, channels))
        ct = lax.dynamic_slice(cotangent, (image, top, 0, 0), (1, height, columns, features))
        side_by_side = jnp.concatenate([shifted(seen, tap, (height, columns), geometry) for tap in taps], -1)
        return total + over_pixels(side_by_side, ct, geometry)

    zero = varying_as(padded, jnp.zeros((len(taps) * channels, features), images.dtype))
    total = lax.fori_loop(0, batch * (rows // height), add, zero)
    return total.reshape(*window, channels, features)


def dense_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return a convolution over two spatial axes, computed with one column more than asked for where that is faster.

    XLA runs many convolutions on one core, those of fewer than 128 features above all, and some without padding several
    times slower than with it. All of these run fast and on all cores with one more column on the right.
    """
    strides, (rows, (left, right)) = geometry.strides, geometry.padding
    padded = any(itertools.chain(*geometry.padding))
    if min(itertools.chain(*geometry.padding)) < 0 or (padded and set(strides) != {1}):
        return native_convolve(images, kernel, geometry=geometry)
    wider = dataclasses.replace(geometry, padding=(rows, (left, right + strides[1])))
    result = native_convolve(images, kernel, geometry=wider)
    return lax.slice_in_dim(result, 0, result.shape[2] - 1, axis=2)


def dense_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    """Return the images' cotangent, of spatial shape ``size``: at stride 1 a `dense_convolve` itself."""
    if set(geometry.strides) != {1}:
        return native_input(cotangent, kernel, size=size, geometry=geometry)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:-2], geometry.kernel_dilation, strict=True)]
    padding = tuple(
        (far - low, n + low - out)
        for far, (low, _), n, out in zip(reach, geometry.padding, size, cotangent.shape[1:-1], strict=True)
    )
    return dense_convolve(cotangent, turned(kernel), geometry=dataclasses.replace(geometry, padding=padding))


LOOPED = Forms(dense_convolve, dense_input, _looped_kernel)
