"""Xception: timm (``legacy_xception``) and Keras."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.xception import FIGURE5
from cnnjax.pretrained.names import Rules

# Modules before each stage; both libraries number them through, Keras from 2.
BEFORE = {stage: sum(len(rows) for rows in FIGURE5[: stage - 1]) for stage in range(1, 5)}


def _timm(stage: str, block: str, layer: str, number: str) -> str:
    """Sequences start with an activation that the first module lacks; then convolution, norm, activation, ..."""
    s, b = int(stage), int(block)
    row = FIGURE5[s - 1][b - 1]
    position = 3 * (int(number) - 1) + (1 if row.activate_first else 0)
    inner = {
        "depthwise_conv": f"{position}.conv1",
        "pointwise_conv": f"{position}.pointwise",
        "norm": f"{position + 1}",
    }
    return f"block{BEFORE[s] + b}.rep.{inner[layer]}"


TIMM = Rules(
    {
        "stem/conv#": "conv{}",
        "stem/norm#": "bn{}",
        "stage4/block2/depthwise_conv#": "conv{:+2}.conv1",
        "stage4/block2/pointwise_conv#": "conv{:+2}.pointwise",
        "stage4/block2/norm#": "bn{:+2}",
        "stage#/block#/(depthwise_conv|pointwise_conv|norm)#": _timm,
        "stage#/block#": lambda stage, block: f"block{BEFORE[int(stage)] + int(block)}",
        "proj_conv": "skip",
        "proj_norm": "skipbn",
        "head/classifier": "fc",
    }
)

# Only the four modules that change the shape have a shortcut; Keras numbers these layers, from 0, unnamed.
PROJECTIONS = {1: "", 2: "_1", 3: "_2", 4: "_3"}
KERAS = Rules(
    {
        "stem/conv#": "block1_conv{}",
        "stem/norm#": "block1_conv{}_bn",
        "stage#/block#/proj_conv": lambda stage, block: f"conv2d{PROJECTIONS[int(stage)]}",
        "stage#/block#/proj_norm": lambda stage, block: f"batch_normalization{PROJECTIONS[int(stage)]}",
        "stage#/block#": lambda stage, block: f"block{BEFORE[int(stage)] + int(block) + 1}",
        "depthwise_conv#/kernel": "sepconv{}/depthwise_kernel",
        "pointwise_conv#/kernel": "sepconv{}/pointwise_kernel",
        "norm#": "sepconv{}_bn",
        "head/classifier": "predictions",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"timm": TIMM, "keras": KERAS}
