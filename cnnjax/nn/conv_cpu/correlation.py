"""Kernel gradients over two axes, as a convolution by Eigen in which channels count as images and images as channels.

See `cnnjax.nn.conv_cpu.eigen` for why by Eigen.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.looped import looped_kernel
from cnnjax.nn.conv_cpu.native import native_convolve
from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.onednn import is_used
from cnnjax.nn.slices import Geometry, Shape, apart, pad

# The cotangent is made longer by at most this part of it: what zeros cost then is about what Eigen gains over the loop,
# of whose time it takes 0.3 to 0.9.
MOST_EXTRA = 1 / 2
# Groups that one iteration of a loop over them computes.
UNROLLED_GROUPS = 8


def correlate(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient of a convolution over two axes, in a loop where Eigen cannot compute it.

    Args:
      images: [batch, height, width, channels].
      cotangent: of the result, [batch, height, width, features].
      window: of the kernel.
      geometry: how the window moves; with groups, such that `has_groups_by_eigen`.
    Returns:
      [window..., channels / groups, features].
    """
    # Where images are cut, they are padded at once as well: what is cut may be longer than they are.
    cut = [pair if min(pair) < 0 else (0, 0) for pair in geometry.padding]
    padding = tuple((0, 0) if min(pair) < 0 else pair for pair in geometry.padding)
    images, geometry = pad(images, cut), dataclasses.replace(geometry, padding=padding)
    if set(geometry.strides) == {1}:
        return _at_stride_1(images, cotangent, window, geometry)
    images, out = pad(images, geometry.padding), cotangent.shape[1:-1]
    # Taps a period apart see pixels of one phase of the images, so that each set of them has a gradient at stride 1.
    steps = list(zip(geometry.strides, geometry.kernel_dilation, strict=True))
    periods = [s // math.gcd(s, d) for s, d in steps]
    dilation = tuple(d // math.gcd(s, d) for s, d in steps)
    inner = dataclasses.replace(geometry, strides=(1, 1), padding=((0, 0), (0, 0)), kernel_dilation=dilation)
    kernel = jnp.zeros((*window, images.shape[-1], cotangent.shape[-1]), images.dtype)
    for first in itertools.product(*(range(min(p, k)) for p, k in zip(periods, window, strict=True))):
        taps = tuple(-(-(k - t) // p) for t, k, p in zip(first, window, periods, strict=True))
        seen = images
        for axis, (s, d) in enumerate(steps):
            start, places = first[axis] * d, out[axis] + (taps[axis] - 1) * dilation[axis]
            seen = lax.slice_in_dim(seen, start, start + (places - 1) * s + 1, s, axis + 1)
        part = _at_stride_1(seen, cotangent, taps, inner)
        kernel = kernel.at[first[0] :: periods[0], first[1] :: periods[1]].set(part)
    return kernel


def has_groups_by_eigen(images: jax.Array, cotangent: jax.Array, window: Shape, geometry: Geometry) -> bool:
    """Return whether Eigen can compute the kernel gradient of a convolution with groups, by `correlate`."""
    plain = len(window) == 2 and set(geometry.strides) == {1} and min(itertools.chain(*geometry.padding)) >= 0
    return plain and _lengthened(images, cotangent, geometry) is not None


def _lengthened(images: jax.Array, cotangent: jax.Array, geometry: Geometry) -> int | None:
    """Return along which axis the cotangent can be made longer than the images, or None.

    The other axis of the images is padded beforehand: if a kernel has more pixels than the images, XLA swaps the two,
    and computes the result number by number. Eigen has float32 alone.
    """
    if images.dtype != jnp.float32:
        return None
    size, out = images.shape[1:-1], cotangent.shape[1:-1]
    seen = [n + low + high for n, (low, high) in zip(size, geometry.padding, strict=True)]
    for axis, other in ((0, 1), (1, 0)):
        longer = max(out[axis], size[axis] + 1)
        if longer * out[other] <= size[axis] * seen[other] and longer <= (1 + MOST_EXTRA) * out[axis]:
            return axis
    return None


def _at_stride_1(images: jax.Array, cotangent: jax.Array, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient at stride 1, for padding of at least 0."""
    size, out, groups = images.shape[1:-1], cotangent.shape[1:-1], geometry.groups
    channels, features = images.shape[-1], cotangent.shape[-1]
    if window == (1, 1) and size == out:
        return over_pixels(images, cotangent, geometry).reshape(*window, channels, features)
    axis = _lengthened(images, cotangent, geometry)
    if axis is None:
        return looped_kernel(images, cotangent, window=window, geometry=geometry)
    extra = max(0, size[axis] + 1 - out[axis])
    before, after, padding = [(0, 0), (0, 0)], [(0, 0), (0, 0)], [(0, 0), (0, 0)]
    before[1 - axis], after[axis] = geometry.padding[1 - axis], (0, extra)
    padding[axis] = (geometry.padding[axis][0], geometry.padding[axis][1] + extra)
    inner = Geometry(geometry.kernel_dilation, tuple(padding), (1, 1), (1, 1), 1, geometry.precision)

    def kernel(group: int | jax.Array) -> jax.Array:
        channels_first = apart(lambda: pad(_group_of(images, group, groups), before).transpose(3, 1, 2, 0))
        longer = apart(lambda: _turned_for_eigen(pad(_group_of(cotangent, group, groups), after).transpose(1, 2, 0, 3)))
        longer = _turned_for_eigen(longer)
        return native_convolve(channels_first, longer, geometry=inner)

    if groups == 1:
        return kernel(0).transpose(1, 2, 0, 3)
    kernels = lax.scan(lambda _, group: (None, kernel(group)), None, jnp.arange(groups), unroll=UNROLLED_GROUPS)[1]
    return kernels.transpose(2, 3, 1, 0, 4).reshape(*window, channels // groups, features)


def _turned_for_eigen(kernel: jax.Array) -> jax.Array:
    """Return a kernel turned round if oneDNN is used: XLA gives it none that were turned just before.

    Turned twice, the first time `apart`, it is what it was.
    """
    return lax.rev(kernel, (0, 1)) if is_used() else kernel


def _group_of(images: jax.Array, group: int | jax.Array, groups: int) -> jax.Array:
    """Return the channels of a group."""
    own = images.shape[-1] // groups
    return images if groups == 1 else lax.dynamic_slice_in_dim(images, group * own, own, images.ndim - 1)
