"""Depthwise: shifted images times taps."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.rows import varying_as
from cnnjax.nn.slices import Geometry, Shape, fused_sum, pad, scatter, shifted, taps_of, weights_of


def _repeat(images: jax.Array, features: int) -> jax.Array:
    """Return each channel as often as it has features."""
    times = features // images.shape[-1]
    return images if times == 1 else jnp.repeat(images, times, axis=-1, total_repeat_length=features)


def _depthwise(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    window = kernel.shape[:-2]
    out = geometry.output_size(images.shape[1:-1], window)
    padded = pad(_repeat(images, kernel.shape[-1]), geometry.padding)

    def term(tap: Shape) -> jax.Array:
        return lax.mul(shifted(padded, tap, out, geometry), weights_of(kernel, tap))

    return fused_sum([functools.partial(term, tap) for tap in taps_of(window)])


def _depthwise_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    def product(parts: list[jax.Array], tap: Shape) -> jax.Array:
        return lax.mul(parts[0], weights_of(kernel, tap))

    images = scatter([cotangent], kernel.shape[:-2], size, geometry, product, kernel.shape[-1])
    if geometry.groups == kernel.shape[-1]:
        return images
    return images.reshape(*images.shape[:-1], geometry.groups, -1).sum(-1)


def _depthwise_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    features = cotangent.shape[-1]
    images = _repeat(images, features)
    rank = len(window)
    if rank == 1:
        images, cotangent = images[:, None], cotangent[:, None]
        geometry = _with_axis(geometry)
        return _accumulate_rows(images, cotangent, (1, *window), geometry).reshape(*window, 1, features)
    if rank == 2:
        return _accumulate_rows(images, cotangent, window, geometry).reshape(*window, 1, features)
    # In a volume, each plane of the window sees planes of the images.
    padded = pad(images, (geometry.padding[0], (0, 0), (0, 0)))
    inner = dataclasses.replace(
        geometry,
        strides=geometry.strides[1:],
        padding=geometry.padding[1:],
        input_dilation=(1, 1),
        kernel_dilation=geometry.kernel_dilation[1:],
    )
    planes = []
    depth, stride = cotangent.shape[1], geometry.strides[0]
    for tap in range(window[0]):
        start = tap * geometry.kernel_dilation[0]
        seen = lax.slice_in_dim(padded, start, start + (depth - 1) * stride + 1, stride, axis=1)
        merged = (seen.shape[0] * depth, *seen.shape[2:])
        rows = cotangent.reshape(cotangent.shape[0] * depth, *cotangent.shape[2:])
        planes.append(_accumulate_rows(seen.reshape(merged), rows, window[1:], inner))
    return jnp.stack(planes).reshape(*window, 1, features)


def _with_axis(geometry: Geometry) -> Geometry:
    """Return the geometry of the same rows as images of one row."""
    return dataclasses.replace(
        geometry,
        strides=(1, *geometry.strides),
        padding=((0, 0), *geometry.padding),
        input_dilation=(1, *geometry.input_dilation),
        kernel_dilation=(1, *geometry.kernel_dilation),
    )


def _accumulate_rows(images: jax.Array, cotangent: jax.Array, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the depthwise kernel gradient, [window..., channels].

    XLA:CPU does not vectorise a fused sum over all but the last axis. So a loop over rows adds their products, one
    accumulator for each column of the window that stays in cache, and the columns of pixels are summed at the end.
    """
    (height, width), (row_stride, stride) = window, geometry.strides
    row_dilation, dilation = geometry.kernel_dilation
    batch, rows, columns, channels = cotangent.shape
    padded = pad(images, geometry.padding)
    reach = (columns - 1) * stride + 1

    def row(index: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        image, top = index // rows, index % rows
        ct = lax.dynamic_slice(cotangent, (image, top, 0, 0), (1, 1, columns, channels))
        added = []
        for tap, before in enumerate(sums):
            seen = lax.dynamic_slice(
                padded,
                (image, top * row_stride, tap * dilation, 0),
                (1, (height - 1) * row_dilation + 1, reach, channels),
            )
            added.append(before + lax.slice(seen, (0, 0, 0, 0), seen.shape, (1, row_dilation, stride, 1)) * ct)
        return added

    zero = varying_as(padded, jnp.zeros((1, height, columns, channels), images.dtype))
    sums = lax.fori_loop(0, batch * rows, row, [zero] * width)
    return jnp.stack([total.sum((0, 2)) for total in sums], 1)


DEPTHWISE = Forms(_depthwise, _depthwise_input, _depthwise_kernel)
