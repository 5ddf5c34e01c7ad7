"""A strided convolution as one of stride 1 over blocks of pixels, for stems on accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.convolve import conv_general_dilated


def _blocks(array: jax.Array, strides: Sequence[int], first: int) -> jax.Array:
    """Return [..., height / s, width / s, s * s * channels, ...] of two axes from ``first`` on and the one behind."""
    height, width, channels = array.shape[first : first + 3]
    before, after = array.shape[:first], array.shape[first + 3 :]
    (down, right), rank = strides, len(before)
    array = array.reshape(*before, height // down, down, width // right, right, channels, *after)
    axes = [*range(rank), rank, rank + 2, rank + 1, rank + 3, rank + 4, *range(rank + 5, array.ndim)]
    blocks = (height // down, width // right, down * right * channels)
    return array.transpose(axes).reshape(*before, *blocks, *after)


def space_to_depth_conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolve images of few channels by blocks: each block of ``strides`` pixels becomes one of many channels.

    Accelerators multiply matrices of 128 channels and more, of which three colours leave most idle. The same kernel, so
    the same parameters, and the same results but for rounding. To be given to `Conv` as ``conv_general_dilated``.

    Source: Ying et al. 2018, arXiv:1811.06992, section 3.2; differs: the kernel is kept as published and rearranged.

    Args:
      lhs: float[batch, height, width, channels], height and width multiples of the strides.
      rhs: float[window..., channels, features].
      window_strides, padding, dimension_numbers, precision, preferred_element_type: as in
        `jax.lax.conv_general_dilated`, channels last.
      lhs_dilation, rhs_dilation, feature_group_count: 1.
    Returns:
      float[batch, out_height, out_width, features].
    Raises:
      ValueError: dilation, groups, other than two spatial axes, or images that blocks do not fill.
    """
    ones = {1} == {*(lhs_dilation or (1,)), *(rhs_dilation or (1,)), feature_group_count}
    if not ones or lhs.ndim != 4:
        raise ValueError(
            "space_to_depth_conv needs images [batch, height, width, channels] without dilation and groups, got shape "
            f"{lhs.shape}, dilations {lhs_dilation} and {rhs_dilation}, {feature_group_count} groups"
        )
    if any(size % s for size, s in zip(lhs.shape[1:3], window_strides, strict=True)):
        raise ValueError(
            f"space_to_depth_conv needs heights and widths that are multiples of the strides {tuple(window_strides)}, "
            f"got {lhs.shape[1:3]}; resize the images, or leave it out"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    pads, grown = [], []
    for size, window, stride, (low, high) in zip(lhs.shape[1:3], rhs.shape[:2], window_strides, padding, strict=True):
        # Zeros before the kernel, so that windows start with a block, and behind it, so that they end with one.
        before = -low % stride
        after = -(window + before) % stride
        blocks, first = (window + before + after) // stride, (low + before) // stride
        out = (size + low + high - window) // stride + 1
        pads.append((first, out - 1 + blocks - first - size // stride))
        grown.append((before, after))
    kernel = jnp.pad(rhs, (*grown, (0, 0), (0, 0)))
    return conv_general_dilated(
        _blocks(lhs, window_strides, 1),
        _blocks(kernel, window_strides, 0),
        (1, 1),
        pads,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
