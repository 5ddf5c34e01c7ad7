"""DnCNN: the package scico, whose network is written in Flax too.

Its weights are of networks with circular borders and a smaller epsilon: take them with ``padding="CIRCULAR"`` and
``epsilon=1e-5``.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.pretrained.names import Rules

SCICO = Rules(
    {
        "stem/conv1": "conv_start",
        "stage1/block#": "ConvBNBlock_{:-1}",
        "conv1": "Conv_0",
        "norm1": "BatchNorm_0",
        "head/conv1": "conv_end",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"scico": SCICO} if name == "dncnn17_grey" else {}
