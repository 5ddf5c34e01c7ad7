"""ResNet, ResNeXt and wide ResNet: torchvision and timm use the same names. Keras has three, whose convolutions have
biases. The rest is in no library.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.resnet import ResNet
from cnnjax.pretrained.names import Rules

TORCHVISION = Rules(
    {
        "stem": "",
        "stage#/block#": "layer{}.{:-1}",
        "conv#": "conv{}",
        "norm#": "bn{}",
        "proj_conv": "downsample.0",
        "proj_norm": "downsample.1",
        "head/classifier": "fc",
    }
)
KERAS = Rules(
    {
        "stem/conv1": "conv1_conv",
        "stem/norm1": "conv1_bn",
        "stage#/block#": "conv{:+1}_block{}",
        "conv#": "{}_conv",
        "norm#": "{}_bn",
        "proj_conv": "0_conv",
        "proj_norm": "0_bn",
        "head/classifier": "predictions",
    }
)
IN_KERAS = ("resnet50", "resnet101", "resnet152")


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, ResNet)
    if model.small_images or model.shortcut == "none":
        return {}
    if model.conv_bias:
        return {"keras": KERAS} if name in IN_KERAS else {}
    return {"torchvision": TORCHVISION, "timm": TORCHVISION}
