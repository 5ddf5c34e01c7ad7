"""ResNet v2: the ImageNet networks are timm's, which classifies with a 1x1 convolution, or Keras's, with biases."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.resnet_v2 import ResNetV2
from cnnjax.pretrained.layouts import Expand
from cnnjax.pretrained.names import Rules

TIMM = Rules(
    {
        "stem/conv1": "stem.conv",
        "stage#/block#": "stages.{:-1}.blocks.{:-1}",
        "conv#": "conv{}",
        "norm#": "norm{}",
        "proj_conv": "downsample.conv",
        "head/norm1": "norm",
        "head/classifier": "head.fc",
    },
    layouts={"head/classifier/kernel": Expand()},
)
KERAS = Rules(
    {
        "stem/conv1": "conv1_conv",
        "stage#/block#": "conv{:+1}_block{}",
        "conv#": "{}_conv",
        "norm1": "preact_bn",
        "norm#": "{:-1}_bn",
        "proj_conv": "0_conv",
        "head/norm1": "post_bn",
        "head/classifier": "predictions",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, ResNetV2)
    if model.small_images:
        return {}
    return {"keras": KERAS} if model.conv_bias else {"timm": TIMM}
