"""Which form of a convolution is fastest on a CPU, and these forms.

XLA's convolution on CPU is good for dense windows over many channels, forward and for the gradient of the images. For
everything else a program of other operations is faster, most of all for depthwise and grouped convolutions and for the
gradients of kernels. The rule:

- a 1x1 window is a matrix product, with and without groups;
- depthwise: the sum over the window's taps of shifted images times the tap; its kernel gradient accumulates shifted
  rows times rows of the cotangent;
- few channels a group (at most 8) in many groups (at least 16): the same sum of shifted images, with the group index
  innermost, so that vectors are long;
- other groups: a dense convolution for each block of groups, with zeros between the groups of a block;
- the kernel gradient of groups: batched matrix products of the planes that the taps see;
- dilated images (a transposed convolution): one convolution for each phase of the output, so that no zero is
  multiplied; the phases are interleaved;
- a dense window: XLA's convolution, many of them one column wider than asked for, which makes it use all cores; the
  kernel gradient as a sum of matrix products over blocks of rows;
- what is left, as XLA does it.

`benchmarks/convolutions.py` measures each form where it applies. Sums are taken in float32 at least.

All shapes are [batch, spatial..., channels] for images and [window..., channels / groups, features] for kernels.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.operation import shaped_like
from cnnjax.nn.slices import Geometry, Shape, apart, fused_sum, interleave, pad, row, scatter, shifted, taps_of

Form = Callable[[jax.Array, jax.Array], jax.Array]

# The largest window that is summed tap by tap; larger ones are left to XLA.
MAX_TAPS = 128
# Groups of at most this many channels are summed tap by tap with the group index innermost.
LANE_CHANNELS = 8
LANE_GROUPS = 16
# Groups of a 1x1 window that are multiplied one by one.
POINTWISE_GROUPS = 8
# Of a block of images spread out for a product, so many numbers stay in cache.
BLOCK_ELEMENTS = 1 << 19
# The same of planes that are multiplied group by group.
PLANE_ELEMENTS = 1 << 22
# Groups are put together to blocks of about this many channels.
BLOCK_CHANNELS = 32


def convolve(images: Shape, kernel: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to convolve images with a kernel of these shapes."""
    form = choose(kernel[:-2], images[-1], images[1:-1], geometry)
    return _in_float32(form, dtype, functools.partial(form.convolve, geometry=geometry))


def input_gradient(kernel: Shape, size: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to get the images' cotangent (of spatial shape ``size``) from (cotangent, kernel)."""
    form = choose(kernel[:-2], kernel[-2] * geometry.groups, size, geometry)
    return _in_float32(form, dtype, functools.partial(form.input_gradient, size=size, geometry=geometry))


def kernel_gradient(images: Shape, window: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to get the kernel's cotangent from (images, cotangent)."""
    form = choose(window, images[-1], images[1:-1], geometry)
    return _in_float32(form, dtype, functools.partial(form.kernel_gradient, window=window, geometry=geometry))


@dataclasses.dataclass(frozen=True)
class _Forms:
    """One way to convolve, with its gradients."""

    convolve: Callable[..., jax.Array]
    input_gradient: Callable[..., jax.Array]
    kernel_gradient: Callable[..., jax.Array]


def choose(window: Shape, channels: int, size: Shape, geometry: Geometry) -> _Forms:
    """Return the forms for a convolution: the rule above."""
    groups, taps = geometry.groups, math.prod(window)
    per_group = channels // groups
    unit = set(geometry.strides) == set(geometry.kernel_dilation) == {1}
    if 0 in geometry.output_size(size, window) or len(window) > 3:
        return NATIVE
    if set(geometry.input_dilation) != {1}:
        return PHASES if unit and groups == 1 else NATIVE
    if taps == 1 and groups <= POINTWISE_GROUPS and all(pad == (0, 0) for pad in geometry.padding):
        return POINTWISE
    if taps > MAX_TAPS:
        return NATIVE
    if groups > 1 and per_group == 1:
        return DEPTHWISE
    if groups > 1:
        return LANES if per_group <= LANE_CHANNELS and groups >= LANE_GROUPS else BLOCKS
    return LOOPED if len(window) == 2 else NATIVE


def _in_float32(forms: _Forms, dtype: Any, form: Form) -> Form:
    """Return ``form`` with sums in float32 for arrays of lower precision; XLA sees to its own."""
    if forms is NATIVE or jnp.finfo(dtype).bits >= 32:
        return form
    return lambda first, second: form(first.astype(jnp.float32), second.astype(jnp.float32)).astype(dtype)


# XLA's own


def _native(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    if min(itertools.chain(*geometry.padding)) < 0:
        # XLA:CPU computes wrong numbers for some negative paddings.
        config = [(low, high, d - 1) for (low, high), d in zip(geometry.padding, geometry.input_dilation, strict=True)]
        images = lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *config, (0, 0, 0)])
        ones = (1,) * len(config)
        geometry = dataclasses.replace(geometry, padding=((0, 0),) * len(config), input_dilation=ones)
    rank = len(geometry.strides)
    image = (0, rank + 1, *range(1, rank + 1))
    return lax.conv_general_dilated(
        images,
        kernel,
        geometry.strides,
        geometry.padding,
        geometry.input_dilation,
        geometry.kernel_dilation,
        lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image),
        geometry.groups,
        precision=geometry.precision,
    )


def _native_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    images = shaped_like(cotangent, (cotangent.shape[0], *size, kernel.shape[-2] * geometry.groups))
    return jax.linear_transpose(lambda images: _native(images, kernel, geometry=geometry), images)(cotangent)[0]


def _native_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    kernel = shaped_like(images, (*window, images.shape[-1] // geometry.groups, cotangent.shape[-1]))
    return jax.linear_transpose(lambda kernel: _native(images, kernel, geometry=geometry), kernel)(cotangent)[0]


NATIVE = _Forms(_native, _native_input, _native_kernel)


def _looped_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient as a sum of products over blocks of rows of each image.

    What the window sees at each place of a block of rows is written side by side and multiplied with the cotangent
    there, while both are in cache.
    """
    batch, rows, columns, features = cotangent.shape
    channels, taps = images.shape[-1], taps_of(window)
    height = _rows_in_cache(rows, columns * len(taps) * channels, BLOCK_ELEMENTS)
    padded = pad(images, geometry.padding)
    reach = (_reach(height, window[0], geometry), padded.shape[2])

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        image, top = index // (rows // height), index % (rows // height) * height
        seen = lax.dynamic_slice(padded, (image, top * geometry.strides[0], 0, 0), (1, *reach, channels))
        ct = lax.dynamic_slice(cotangent, (image, top, 0, 0), (1, height, columns, features))
        side_by_side = jnp.concatenate([shifted(seen, tap, (height, columns), geometry) for tap in taps], -1)
        return total + _over_pixels(side_by_side, ct, geometry)

    zero = _varying_as(padded, jnp.zeros((len(taps) * channels, features), images.dtype))
    total = lax.fori_loop(0, batch * (rows // height), add, zero)
    return total.reshape(*window, channels, features)


def _rows_in_cache(rows: int, row: int, limit: int) -> int:
    """Return how many rows of ``row`` numbers make a block: at most ``limit`` numbers, and all blocks are equal."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * row <= limit))


def _reach(rows: int, window: int, geometry: Geometry) -> int:
    """Return how many rows of the padded images a window sees from so many of its places along the first axis."""
    return (rows - 1) * geometry.strides[0] + (window - 1) * geometry.kernel_dilation[0] + 1


def _varying_as(example: jax.Array, start: jax.Array) -> jax.Array:
    """Return what a loop starts with: under ``shard_map`` it has to vary over the axes that the result varies over."""
    varying = jax.typeof(example).manual_axis_type.varying
    return lax.pcast(start, tuple(varying), to="varying") if varying else start


def _dense(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return a convolution over two spatial axes, computed with one column more than asked for where that is faster.

    XLA runs many convolutions on one core, those of fewer than 128 features above all, and some without padding several
    times slower than with it. All of these run fast and on all cores with one more column on the right.
    """
    strides, (rows, (left, right)) = geometry.strides, geometry.padding
    padded = any(itertools.chain(*geometry.padding))
    if min(itertools.chain(*geometry.padding)) < 0 or (padded and set(strides) != {1}):
        return _native(images, kernel, geometry=geometry)
    wider = dataclasses.replace(geometry, padding=(rows, (left, right + strides[1])))
    result = _native(images, kernel, geometry=wider)
    return lax.slice_in_dim(result, 0, result.shape[2] - 1, axis=2)


def _dense_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    if set(geometry.strides) != {1}:
        return _native_input(cotangent, kernel, size=size, geometry=geometry)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:-2], geometry.kernel_dilation, strict=True)]
    padding = tuple(
        (far - low, n + low - out)
        for far, (low, _), n, out in zip(reach, geometry.padding, size, cotangent.shape[1:-1], strict=True)
    )
    return _dense(cotangent, _turned(kernel), geometry=dataclasses.replace(geometry, padding=padding))


LOOPED = _Forms(_dense, _dense_input, _looped_kernel)


# 1x1 windows: matrix products


def _dot(left: jax.Array, right: jax.Array, axes: Any, geometry: Geometry) -> jax.Array:
    return lax.dot_general(left, right, (axes, ((), ())), precision=geometry.precision)


def _split(array: jax.Array, groups: int) -> list[jax.Array]:
    return jnp.split(array, groups, axis=-1) if groups > 1 else [array]


def _join(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate(arrays, -1) if len(arrays) > 1 else arrays[0]


def _visited(images: jax.Array, geometry: Geometry) -> jax.Array:
    return lax.slice(images, (0,) * images.ndim, images.shape, (1, *geometry.strides, 1))


def _pointwise(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    images, kernel = _visited(images, geometry), kernel.reshape(kernel.shape[-2:])
    pairs = zip(_split(images, geometry.groups), _split(kernel, geometry.groups), strict=True)
    return _join([_dot(part, weights, ((part.ndim - 1,), (0,)), geometry) for part, weights in pairs])


def _pointwise_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    kernel = kernel.reshape(kernel.shape[-2:])
    pairs = zip(_split(cotangent, geometry.groups), _split(kernel, geometry.groups), strict=True)
    images = _join([_dot(part, weights, ((part.ndim - 1,), (1,)), geometry) for part, weights in pairs])
    # Pixels that the window stepped over have no influence.
    config = [
        (0, n - (m - 1) * s - 1, s - 1) for n, m, s in zip(size, images.shape[1:-1], geometry.strides, strict=True)
    ]
    return lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _over_pixels(images: jax.Array, cotangent: jax.Array, geometry: Geometry) -> jax.Array:
    """Return the product [channels, features] that is summed over the pixels of all images.

    As matrices: of a product over several axes XLA would transpose an argument first, pixel by pixel.
    """
    channels, features = images.shape[-1], cotangent.shape[-1]
    return _dot(images.reshape(-1, channels), cotangent.reshape(-1, features), ((0,), (0,)), geometry)


def _pointwise_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    images = _visited(images, geometry)
    pairs = zip(_split(images, geometry.groups), _split(cotangent, geometry.groups), strict=True)
    kernel = _join([_over_pixels(part, ct, geometry) for part, ct in pairs])
    return kernel.reshape(*window, *kernel.shape)


POINTWISE = _Forms(_pointwise, _pointwise_input, _pointwise_kernel)


# Depthwise: shifted images times taps


def _repeat(images: jax.Array, features: int) -> jax.Array:
    """Return each channel as often as it has features."""
    times = features // images.shape[-1]
    return images if times == 1 else jnp.repeat(images, times, axis=-1, total_repeat_length=features)


def _depthwise(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    window = kernel.shape[:-2]
    out = geometry.output_size(images.shape[1:-1], window)
    padded = pad(_repeat(images, kernel.shape[-1]), geometry.padding)

    def term(tap: Shape) -> jax.Array:
        return shifted(padded, tap, out, geometry) * row(kernel[tap][0], padded.ndim)

    return fused_sum([functools.partial(term, tap) for tap in taps_of(window)])


def _depthwise_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    def product(parts: list[jax.Array], tap: Shape) -> jax.Array:
        return parts[0] * row(kernel[tap][0], parts[0].ndim)

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
    # Of a volume, each plane of the window sees planes of the images.
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

    zero = _varying_as(padded, jnp.zeros((1, height, columns, channels), images.dtype))
    sums = lax.fori_loop(0, batch * rows, row, [zero] * width)
    return jnp.stack([total.sum((0, 2)) for total in sums], 1)


DEPTHWISE = _Forms(_depthwise, _depthwise_input, _depthwise_kernel)


# Small groups: the group index innermost


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


def _grouped_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient as a sum of batched products, a matrix for each group, over blocks of rows.

    What each tap sees is a plane of the images, whose rows are copied as a whole.
    """
    groups, taps = geometry.groups, taps_of(window)
    channels, features = images.shape[-1] // groups, cotangent.shape[-1] // groups
    batch, rows, *columns = cotangent.shape[:-1]
    height = _rows_in_cache(rows, math.prod(columns) * len(taps) * images.shape[-1], PLANE_ELEMENTS)
    padded, cotangents = _planes(pad(images, geometry.padding), groups), _planes(cotangent, groups)
    lead, rest = (groups, channels, 1, _reach(height, window[0], geometry)), padded.shape[4:]
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

    zero = _varying_as(padded, jnp.zeros((groups, len(taps) * channels, features), images.dtype))
    total = lax.fori_loop(0, batch * (rows // height), add, zero)
    return jnp.moveaxis(total, 0, 1).reshape(*window, channels, groups * features)


def _together(groups: int, channels: int) -> int:
    """Return how many groups make a block."""
    return max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * channels <= BLOCK_CHANNELS))


LANES = _Forms(_lane_convolve, _lane_input, _grouped_kernel)


# Larger groups: dense blocks


def _block_kernels(kernel: jax.Array, groups: int) -> list[jax.Array]:
    """Return a dense kernel for each block of groups, with zeros between its groups."""
    *window, per_group, total = kernel.shape
    features = total // groups
    together = _together(groups, max(per_group, features))
    if together == 1:
        return _split(kernel, groups)
    parts = kernel.reshape(*window, per_group, groups // together, together, features)
    # [blocks, window..., 1, channels of a group, groups of a block, features of a group]
    parts = jnp.moveaxis(parts, len(window) + 1, 0)[..., None, :, :, :]
    dense = parts * row(jnp.eye(together, dtype=kernel.dtype)[:, None, :, None], parts.ndim)
    return list(dense.reshape(groups // together, *window, together * per_group, together * features))


def _block_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernels = _block_kernels(kernel, geometry.groups)
    parts, dense = zip(_split(images, len(kernels)), kernels, strict=True), dataclasses.replace(geometry, groups=1)
    form = _dense if len(geometry.strides) == 2 else _native
    return _join([form(part, weights, geometry=dense) for part, weights in parts])


def _block_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    kernels = _block_kernels(kernel, geometry.groups)
    parts, dense = zip(_split(cotangent, len(kernels)), kernels, strict=True), dataclasses.replace(geometry, groups=1)
    form = _dense_input if len(geometry.strides) == 2 else _native_input
    return _join([form(part, weights, size=size, geometry=dense) for part, weights in parts])


BLOCKS = _Forms(_block_convolve, _block_input, _grouped_kernel)


# Dilated images: one convolution a phase of the output


def _turned(kernel: jax.Array) -> jax.Array:
    """Return the kernel that goes from features to channels."""
    return jnp.swapaxes(jnp.flip(kernel, tuple(range(kernel.ndim - 2))), -1, -2)


def _phases(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    strides, window, size = geometry.input_dilation, kernel.shape[:-2], images.shape[1:-1]
    out = geometry.output_size(size, window)
    counts = [-(-n // s) for n, s in zip(out, strides, strict=True)]
    phases = {}
    for phase in itertools.product(*map(range, strides)):
        lows = [low for low, _ in geometry.padding]
        first = [(low - a) % s for low, a, s in zip(lows, phase, strides, strict=True)]
        part = kernel[tuple(slice(i, None, s) for i, s in zip(first, strides, strict=True))]
        if 0 in part.shape:
            phases[phase] = jnp.zeros((images.shape[0], *counts, kernel.shape[-1]), images.dtype)
            continue
        before = [(low - a - i) // s for low, a, i, s in zip(lows, phase, first, strides, strict=True)]
        padding = tuple(
            (low, count + k - 1 - n - low)
            for low, count, k, n in zip(before, counts, part.shape[:-2], size, strict=True)
        )
        inner = Geometry((1,) * len(size), padding, (1,) * len(size), (1,) * len(size), 1, geometry.precision)
        # A single tap sees whole images, shifted.
        if math.prod(part.shape[:-2]) == 1:
            inner = dataclasses.replace(inner, padding=((0, 0),) * len(size))
            phases[phase] = _pointwise(pad(images, padding), part, geometry=inner)
        else:
            phases[phase] = convolve(images.shape, part.shape, images.dtype, inner)(images, part)
    return interleave(phases, strides, out)


def _undilated(geometry: Geometry, size: Shape, out: Shape, window: Shape) -> Geometry:
    """Return the strided convolution from the result back to the images of a transposed convolution."""
    padding = tuple(
        (k - 1 - low, s * (n - 1) + k - m - (k - 1 - low))
        for (low, _), k, s, n, m in zip(geometry.padding, window, geometry.input_dilation, size, out, strict=True)
    )
    ones = (1,) * len(size)
    return Geometry(geometry.input_dilation, padding, ones, ones, 1, geometry.precision)


def _phases_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    window, kernel = kernel.shape[:-2], _turned(kernel)
    strided = _undilated(geometry, size, cotangent.shape[1:-1], window)
    return convolve(cotangent.shape, kernel.shape, cotangent.dtype, strided)(cotangent, kernel)


def _phases_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    strided = _undilated(geometry, images.shape[1:-1], cotangent.shape[1:-1], window)
    form = kernel_gradient(cotangent.shape, window, images.dtype, strided)
    return _turned(form(cotangent, images))


PHASES = _Forms(_phases, _phases_input, _phases_kernel)
