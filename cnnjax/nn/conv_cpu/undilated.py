"""Which form is fastest for images without dilation."""

from __future__ import annotations

import math

from cnnjax.nn.conv_cpu.dense import DENSE
from cnnjax.nn.conv_cpu.depthwise import DEPTHWISE
from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.groups import BLOCKS, LANES
from cnnjax.nn.conv_cpu.native import NATIVE
from cnnjax.nn.conv_cpu.onednn import by_onednn
from cnnjax.nn.conv_cpu.patches import PATCHES, is_small
from cnnjax.nn.conv_cpu.patchify import PATCHIFY, is_patchify
from cnnjax.nn.conv_cpu.pointwise import POINTWISE
from cnnjax.nn.onednn import is_used
from cnnjax.nn.slices import Geometry, Shape

# The largest window that is summed tap by tap; larger ones are left to XLA.
MAX_TAPS = 128
# Groups of at most this many channels are summed tap by tap with the group index innermost.
LANE_CHANNELS = 8
LANE_GROUPS = 16
# Groups of a 1x1 window that are multiplied one by one.
POINTWISE_GROUPS = 8


def choose_undilated(window: Shape, channels: int, size: Shape, geometry: Geometry) -> Forms:
    """Return the forms for a convolution whose images are not dilated: the rule of `cnnjax.nn.conv_cpu`.

    Args:
      window: of the kernel.
      channels: of the images.
      size: spatial shape of the images.
      geometry: how the window moves.
    """
    groups, taps = geometry.groups, math.prod(window)
    per_group = channels // groups
    if min(geometry.output_size(size, window)) < 1 or len(window) > 3:
        return NATIVE
    if taps == 1 and groups <= POINTWISE_GROUPS and all(pad == (0, 0) for pad in geometry.padding):
        return POINTWISE
    if groups == 1 and is_patchify(window, geometry):
        return PATCHIFY
    if taps > MAX_TAPS:
        return NATIVE
    if groups == 1 and is_small(size, window, geometry):
        return PATCHES
    if groups > 1 and per_group == 1:
        form = DEPTHWISE
    elif groups > 1:
        form = LANES if per_group <= LANE_CHANNELS and groups >= LANE_GROUPS else BLOCKS
    else:
        form = DENSE if len(window) == 2 else NATIVE
    # Over one axis, forms of ours are as fast, depthwise ones faster.
    return by_onednn(form) if len(window) > 1 and is_used() else form
