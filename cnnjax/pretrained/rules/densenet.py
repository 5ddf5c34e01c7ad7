"""DenseNet: torchvision and timm use the same names; Keras has no 161. The CIFAR networks are in no library."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.densenet import DenseNet
from cnnjax.pretrained.names import Rules

TORCHVISION = Rules(
    {
        "stem/conv1": "features.conv0",
        "stem/norm1": "features.norm0",
        "stage#/transition/conv1": "features.transition{:-1}.conv",
        "stage#/transition/norm1": "features.transition{:-1}.norm",
        "stage#/block#": "features.denseblock{}.denselayer{}",
        "conv#": "conv{}",
        "norm#": "norm{}",
        "head/norm1": "features.norm5",
        "head/classifier": "classifier",
    }
)
KERAS = Rules(
    {
        "stem/conv1": "conv1_conv",
        "stem/norm1": "conv1_bn",
        "stage#/transition/conv1": "pool{}_conv",
        "stage#/transition/norm1": "pool{}_bn",
        "stage#/block#": "conv{:+1}_block{}",
        "conv#": "{}_conv",
        "norm#": "{:-1}_bn",
        "head/norm1": "bn",
        "head/classifier": "predictions",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, DenseNet)
    if model.small_images:
        return {}
    torch = {"torchvision": TORCHVISION, "timm": TORCHVISION}
    return torch if name == "densenet161" else torch | {"keras": KERAS}
