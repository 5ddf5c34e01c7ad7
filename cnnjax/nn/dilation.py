"""Finer feature maps from the same weights: strides traded for dilation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple


class StageGeometry(NamedTuple):
    """How a stage steps over its input, and how far apart the taps of its spatial kernels are."""

    strides: int
    """Stride of the stage's first block."""
    first_dilation: int
    """Dilation of the first block: that of the stage before, whose grid it still reads."""
    dilation: int
    """Dilation of all other blocks."""


def dilate_stages(strides: Sequence[int], output_stride: int, *, stem_stride: int) -> tuple[StageGeometry, ...]:
    """Return the geometry of each stage, with strides beyond ``output_stride`` replaced by dilation.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3.1 and figure 3; differs: the first block of a dilated stage
    keeps the dilation of the stage before, as in torchvision and timm.

    Args:
      strides: stride of each stage of the published network.
      output_stride: pixels of the image for each pixel of the last feature map.
      stem_stride: stride of everything before the first stage.
    Raises:
      ValueError: an ``output_stride`` that no stage ends at.

    >>> dilate_stages((1, 2, 2, 2), 16, stem_stride=4)[-2:]
    (StageGeometry(strides=2, first_dilation=1, dilation=1), StageGeometry(strides=1, first_dilation=1, dilation=2))
    """
    allowed = sorted(set(accumulate((stem_stride, *strides), mul)) - {stem_stride})
    if output_stride not in allowed:
        raise ValueError(f"output_stride must be one of {', '.join(map(str, allowed))}, got {output_stride}")
    stages = []
    reached, dilation = stem_stride, 1
    for stride in strides:
        first = dilation
        if reached * stride > output_stride:
            dilation *= stride
            stride = 1
        reached *= stride
        stages.append(StageGeometry(stride, first, dilation))
    return tuple(stages)
