"""ShuffleNetV2: torchvision numbers the stages as the paper does and a branch's layers with its activations."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.shufflenet_v2 import STAGE_SIZES
from cnnjax.pretrained.names import Rules

TORCHVISION = Rules(
    {
        "stem/conv1": "conv1.0",
        "stem/norm1": "conv1.1",
        f"stage{len(STAGE_SIZES)}/block{STAGE_SIZES[-1] + 1}/conv1": "conv5.0",
        f"stage{len(STAGE_SIZES)}/block{STAGE_SIZES[-1] + 1}/norm1": "conv5.1",
        "stage#/block#": "stage{:+1}.{:-1}",
        "branch1/conv1": "branch1.0",
        "branch1/norm1": "branch1.1",
        "branch1/conv2": "branch1.2",
        "branch1/norm2": "branch1.3",
        "branch2/conv1": "branch2.0",
        "branch2/norm1": "branch2.1",
        "branch2/conv2": "branch2.3",
        "branch2/norm2": "branch2.4",
        "branch2/conv3": "branch2.5",
        "branch2/norm3": "branch2.6",
        "head/classifier": "fc",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"torchvision": TORCHVISION}
