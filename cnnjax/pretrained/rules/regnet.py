"""RegNet: torchvision counts blocks from 0, timm from 1.

timm's networks of the same size are torchvision's, except for ``regnetx_004``, ``regnety_008`` and ``regnety_080``,
where timm calls torchvision's ``regnetx_004_tv``, ``regnety_008_tv`` and ``regnety_080_tv``.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.pretrained.names import Rules

TORCHVISION = Rules(
    {
        "stem/conv1": "stem.0",
        "stem/norm1": "stem.1",
        "stage#/block#": "trunk_output.block{0}.block{0}-{1:-1}",
        "conv1": "f.a.0",
        "norm1": "f.a.1",
        "conv2": "f.b.0",
        "norm2": "f.b.1",
        "conv3": "f.c.0",
        "norm3": "f.c.1",
        "squeeze_excite/squeeze_conv": "f.se.fc1",
        "squeeze_excite/excite_conv": "f.se.fc2",
        "proj_conv": "proj.0",
        "proj_norm": "proj.1",
        "head/classifier": "fc",
    }
)
TIMM = Rules(
    {
        "stem/conv1": "stem.conv",
        "stem/norm1": "stem.bn",
        "stage#/block#": "s{}.b{}",
        "conv#": "conv{}.conv",
        "norm#": "conv{}.bn",
        "squeeze_excite/squeeze_conv": "se.fc1",
        "squeeze_excite/excite_conv": "se.fc2",
        "proj_conv": "downsample.conv",
        "proj_norm": "downsample.bn",
        "head/classifier": "head.fc",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"torchvision": TORCHVISION, "timm": TIMM}
