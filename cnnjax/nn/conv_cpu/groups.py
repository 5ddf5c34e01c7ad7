"""Groups: small ones with the group index innermost (lanes), larger ones put together to dense blocks."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.correlation import correlate, has_groups_by_eigen
from cnnjax.nn.conv_cpu.eigen import eigen_convolve, eigen_input
from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.native import native_convolve, native_input
from cnnjax.nn.conv_cpu.patches import PATCHES, smaller_than_window
from cnnjax.nn.conv_cpu.pointwise import join, split
from cnnjax.nn.conv_cpu.rows import rows_in_cache, rows_seen, varying_as
from cnnjax.nn.slices import Geometry, Shape, apart, fused_sum, pad, row, scatter, taps_of

# Largest block of planes that are multiplied group by group, in elements, that stays in cache.
PLANE_ELEMENTS = 1 << 22
# Groups are put together to blocks of about this many channels.
BLOCK_CHANNELS = 32
# The same for gradients of kernels at stride 1: with AVX-512, 0.3 to 0.8 of the time of a product for each group.
GRADIENT_CHANNELS = 16


def _lanes(images: jax.Array, groups: int) -> jax.Array:
    """Return [batch, spatial..., channels of a group, groups]."""
    return apart(lambda: jnp.swapaxes(images.reshape(*images.shape[:-1], groups, -1), -1, -2))


def _unlanes(images: jax.Array) -> jax.Array:
    """Return [batch, spatial..., channels] again."""
    return apart(lambda: jnp.swapaxes(images, -1, -2).reshape(*images.shape[:-2], -1))


def _lane_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    window, groups, per_group = kernel.shape[:-2], geometry.groups, kernel.shape[-2]
    out = geometry.output_size(images.shape[1:-1], window)
    padded = _lanes(pad(images, geometry.padding), groups)
    weights = _lanes(kernel, groups)

    def term(tap: Shape, channel: int) -> jax.Array:
        start = [t * d for t, d in zip(tap, geometry.kernel_dilation, strict=True)]
        limit = [a + (n - 1) * s + 1 for a, n, s in zip(start, out, geometry.strides, strict=True)]
        seen = lax.slice(
            padded,
            (0, *start, channel, 0),
            (padded.shape[0], *limit, channel + 1, groups),
            (1, *geometry.strides, 1, 1),
        )
        return seen * row(weights[(*tap, channel)], seen.ndim)

    pairs = itertools.product(taps_of(window), range(per_group))
    return _unlanes(fused_sum([functools.partial(term, tap, channel) for tap, channel in pairs]))


def _lane_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    groups = geometry.groups
    weights = _lanes(kernel, groups)
    lanes = _lanes(cotangent, groups)

    def product(parts: list[jax.Array], tap: Shape) -> jax.Array:
        (part,) = parts
        # Over the features of a group; the result has its channels.
        features = [lax.slice_in_dim(part, f, f + 1, axis=part.ndim - 2) for f in range(part.shape[-2])]
        return functools.reduce(
            operator.add, (seen * row(weights[tap][:, f], part.ndim) for f, seen in enumerate(features))
        )

    return _unlanes(scatter([lanes], kernel.shape[:-2], size, geometry, product, kernel.shape[-2], groups))


def _planes(images: jax.Array, groups: int) -> jax.Array:
    """Return [groups, channels of a group, batch, spatial...]."""
    batch, *size, channels = images.shape
    return apart(lambda: images.reshape(-1, channels).T.reshape(groups, channels // groups, batch, *size))


def _planes_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient as a sum of batched products, a matrix for each group, over blocks of rows.

    What each tap sees is a plane of the images, whose rows are copied as a whole.
    """
    groups, taps = geometry.groups, taps_of(window)
    channels, features = images.shape[-1] // groups, cotangent.shape[-1] // groups
    batch, rows, *columns = cotangent.shape[:-1]
    height = rows_in_cache(rows, math.prod(columns) * len(taps) * images.shape[-1], PLANE_ELEMENTS)
    padded, cotangents = _planes(pad(images, geometry.padding), groups), _planes(cotangent, groups)
    lead, rest = (groups, channels, 1, rows_seen(height, window[0], geometry)), padded.shape[4:]
    strides = (1, 1, 1, *geometry.strides)

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        image, top = index // (rows // height), index % (rows // height) * height
        behind = (0,) * len(rest)
        seen = lax.dynamic_slice(padded, (0, 0, image, top * geometry.strides[0], *behind), (*lead, *rest))
        ct = lax.dynamic_slice(cotangents, (0, 0, image, top, *behind), (groups, features, 1, height, *columns))
        parts = []
        for tap in taps:
            start = [t * d for t, d in zip(tap, geometry.kernel_dilation, strict=True)]
            places = zip(start, (height, *columns), geometry.strides, strict=True)
            limit = [a + (n - 1) * s + 1 for a, n, s in places]
            parts.append(lax.slice(seen, (0, 0, 0, *start), (groups, channels, 1, *limit), strides))
        side_by_side = jnp.concatenate(parts, 1).reshape(groups, len(taps) * channels, -1)
        pixels = (((2,), (2,)), ((0,), (0,)))
        product = lax.dot_general(side_by_side, ct.reshape(groups, features, -1), pixels, precision=geometry.precision)
        return total + product

    zero = varying_as(padded, jnp.zeros((groups, len(taps) * channels, features), images.dtype))
    total = lax.fori_loop(0, batch * (rows // height), add, zero)
    return jnp.moveaxis(total, 0, 1).reshape(*window, channels, groups * features)


def _grouped_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient: at stride 1 that of dense kernels for blocks of groups, of which it takes its part.

    The channels of the other groups of a block are multiplied for nothing, which is faster than smaller matrices.
    """
    groups = geometry.groups
    channels, features = images.shape[-1] // groups, cotangent.shape[-1] // groups
    if not has_groups_by_eigen(images, cotangent, window, geometry):
        return _planes_kernel(images, cotangent, window=window, geometry=geometry)
    together = _together(groups, max(channels, features), GRADIENT_CHANNELS)
    blocks = dataclasses.replace(geometry, groups=groups // together)
    dense = correlate(images, cotangent, window=window, geometry=blocks)
    parts = dense.reshape(*window, together, channels, groups // together, together, features)
    own = jnp.stack([parts[:, :, i, :, :, i] for i in range(together)], -2)
    return own.reshape(*window, channels, groups * features)


LANES = Forms(_lane_convolve, _lane_input, _grouped_kernel)


def _together(groups: int, channels: int, limit: int) -> int:
    """Return how many groups make a block: of at most ``limit`` channels, or 1 if one has more."""
    return max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * channels <= limit))


def _block_kernels(kernel: jax.Array, groups: int) -> list[jax.Array]:
    """Return a dense kernel for each block of groups, with zeros between its groups."""
    *window, per_group, total = kernel.shape
    features = total // groups
    together = _together(groups, max(per_group, features), BLOCK_CHANNELS)
    if together == 1:
        return split(kernel, groups)
    parts = kernel.reshape(*window, per_group, groups // together, together, features)
    # [blocks, window..., 1, channels of a group, groups of a block, features of a group]
    parts = jnp.moveaxis(parts, len(window) + 1, 0)[..., None, :, :, :]
    dense = parts * row(jnp.eye(together, dtype=kernel.dtype)[:, None, :, None], parts.ndim)
    return list(dense.reshape(groups // together, *window, together * per_group, together * features))


def _block_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernels = _block_kernels(kernel, geometry.groups)
    parts, dense = zip(split(images, len(kernels)), kernels, strict=True), dataclasses.replace(geometry, groups=1)
    form = eigen_convolve if len(geometry.strides) == 2 else native_convolve
    if smaller_than_window(images.shape[1:-1], kernel.shape[:-2]):
        form = PATCHES.convolve
    return join([form(part, weights, geometry=dense) for part, weights in parts])


def _block_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    kernels = _block_kernels(kernel, geometry.groups)
    parts, dense = zip(split(cotangent, len(kernels)), kernels, strict=True), dataclasses.replace(geometry, groups=1)
    form = eigen_input if len(geometry.strides) == 2 else native_input
    if smaller_than_window(size, kernel.shape[:-2]):
        form = PATCHES.input_gradient
    return join([form(part, weights, size=size, geometry=dense) for part, weights in parts])


BLOCKS = Forms(_block_convolve, _block_input, _grouped_kernel)
