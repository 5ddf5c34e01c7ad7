"""ResNet, ResNeXt and wide ResNet: torchvision and timm use the same names. The rest is in no library."""

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


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, ResNet)
    if model.small_images or model.shortcut == "none":
        return {}
    return {"torchvision": TORCHVISION, "timm": TORCHVISION}
