"""Stages: the blocks between two changes of resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax

from cnnjax.nn.dilation import StageGeometry, dilate_stages


class Stage(nn.Module):
    """Apply blocks one after the other; they are called block1, block2, and so on.

    Args:
      x: float[batch, height, width, in_features].
      train: handed to the blocks.
      every_block: True returns a list with the output of each block.
    Returns:
      float[batch, out_height, out_width, out_features], the output of the last block.
    """

    blocks: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, every_block: bool = False) -> Any:
        """Apply the blocks to ``x``."""
        outputs = []
        for index, make_block in enumerate(self.blocks, start=1):
            x = make_block(name=f"block{index}")(x, train)
            outputs.append(x)
        return outputs if every_block else x


def residual_blocks(
    make_block: Callable[..., nn.Module],
    geometry: StageGeometry,
    stochastic_depth_rates: Sequence[float],
    strided: Literal["first", "last"] = "first",
) -> tuple[Callable[..., nn.Module], ...]:
    """Return the blocks of a `Stage` that differ only in their geometry and in how often they are dropped.

    Args:
      make_block: a module that has the fields ``strides``, ``dilations`` (before the block takes its step, and after)
        and ``stochastic_depth_rate``.
      geometry: strides and dilation of the stage, see `dilate_stages`.
      stochastic_depth_rates: one rate a block.
      strided: which block takes the stage's strides; those before it have the dilation of the stage before.
    """
    strides, first_dilation, dilation = geometry
    place = 0 if strided == "first" else len(stochastic_depth_rates) - 1
    before, after = (partial(make_block, strides=1, dilations=(d, d)) for d in (first_dilation, dilation))
    step = partial(make_block, strides=strides, dilations=(first_dilation, dilation))
    return tuple(
        partial(before if index < place else step if index == place else after, stochastic_depth_rate=rate)
        for index, rate in enumerate(stochastic_depth_rates)
    )


def split_stages(
    blocks: Iterable[dict[str, Any]],
    *,
    output_stride: int = 32,
    stem_stride: int = 2,
    dilate_strided_block: bool = False,
) -> list[list[dict[str, Any]]]:
    """Split the rows of a table into stages, a new one at each stride, with the geometry of `dilate_stages`.

    Args:
      blocks: fields of each block, with ``strides``.
      output_stride: pixels of the image for each pixel of the last feature map.
      stem_stride: stride of what comes before the first block.
      dilate_strided_block: in a dilated stage the first block too gets the stage's dilation, as in torchvision's
        MobileNetV3; otherwise it keeps that of the stage before.
    Returns:
      The fields of each stage's blocks, with ``strides`` and ``dilation``.
    Raises:
      ValueError: an ``output_stride`` that no stage ends at.
    """
    stages: list[list[dict[str, Any]]] = []
    for block in blocks:
        if block["strides"] > 1 or not stages:
            stages.append([])
        stages[-1].append(block)
    geometries = dilate_stages([stage[0]["strides"] for stage in stages], output_stride, stem_stride=stem_stride)
    for stage, (strides, first_dilation, dilation) in zip(stages, geometries, strict=True):
        stage[:] = [block | {"strides": 1, "dilation": dilation} for block in stage]
        stage[0] |= {"strides": strides, "dilation": dilation if dilate_strided_block else first_dilation}
    return stages
