"""Dense windows: XLA's convolution, made to use all cores, and the kernel gradient in a loop over blocks of rows."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms, turned, turned_geometry
from cnnjax.nn.conv_cpu.native import native_convolve, native_input
from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.conv_cpu.rows import rows_in_cache, rows_seen, varying_as
from cnnjax.nn.slices import Geometry, Shape, pad, shifted, taps_of

# Largest block of images spread out for a product, in elements, that stays in cache.
BLOCK_ELEMENTS = 1 << 19
# The same of images and cotangent together, where both are spread out, and the fewest channels for which both are. Both
# numbers were measured on two cores with AVX-512, for 3x3 windows: gradients take 0.55 to 0.7 of the time for 64 or 128
# channels and up to 128 features, 0.8 to 1.1 for 128 to 512 channels and more features, but 1.0 to 1.4 for 16 and 48
# channels and three times as long for 3, whose pixels are copied number by number.
CROSSED_ELEMENTS = 1 << 20
MANY_CHANNELS = 64


def _kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient in a loop over blocks of rows, by the form that is faster."""
    # The crossed form multiplies as many rows of zeros as the window is high.
    low = 4 * _span(window, geometry) <= cotangent.shape[1]
    crossed = low and images.shape[-1] >= MANY_CHANNELS and set(geometry.strides) == {1}
    form = _crossed_kernel if crossed else _looped_kernel
    return form(images, cotangent, window=window, geometry=geometry)


def _span(window: Shape, geometry: Geometry) -> int:
    """Return from the first row of a window to its last."""
    return (window[0] - 1) * geometry.kernel_dilation[0]


def _crossed_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient, at stride 1, as a sum of products over blocks of rows of each padded image.

    What a row of the window sees is written side by side in a block of the images, and so are the rows of the cotangent
    that saw the block. Their product has every tap, in blocks of channels and features. Of a 3x3 window, three times
    the images and three times the cotangent are copied instead of nine times the images, and the product is of more
    nearly square matrices, which are multiplied faster.
    """
    batch, rows, columns, features = cotangent.shape
    channels, (down, across) = images.shape[-1], window
    below, beside = geometry.kernel_dilation
    span = _span(window, geometry)
    most = max(1, CROSSED_ELEMENTS // (columns * (across * channels + down * features)))
    blocks = -(-(rows + span) // most)
    height = -(-(rows + span) // blocks)
    extra = blocks * height - (rows + span)
    (top, bottom), sides = geometry.padding
    padded = pad(images, ((top, bottom + extra), sides))
    surrounded = pad(cotangent, ((span, span + extra), (0, 0)))

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        image, first = index // blocks, index % blocks * height
        seen = lax.dynamic_slice(padded, (image, first, 0, 0), (1, height, padded.shape[2], channels))
        saw = lax.dynamic_slice(surrounded, (image, first, 0, 0), (1, height + span, columns, features))
        starts = [tap * beside for tap in range(across)]
        seen = jnp.concatenate([lax.slice_in_dim(seen, a, a + columns, axis=2) for a in starts], -1)
        starts = [span - tap * below for tap in range(down)]
        saw = jnp.concatenate([lax.slice_in_dim(saw, a, a + height, axis=1) for a in starts], -1)
        return lax.add(total, over_pixels(seen, saw, geometry))

    zero = varying_as(padded, jnp.zeros((across * channels, down * features), images.dtype))
    total = lax.fori_loop(0, batch * blocks, add, zero)
    return total.reshape(across, channels, down, features).transpose(2, 0, 1, 3)


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
    back = turned_geometry(geometry, kernel.shape[:-2], size, cotangent.shape[1:-1])
    return dense_convolve(cotangent, turned(kernel), geometry=back)


LOOPED = Forms(dense_convolve, dense_input, _kernel_gradient)
