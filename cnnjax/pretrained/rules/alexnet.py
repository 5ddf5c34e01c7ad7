"""AlexNet: torchvision has the network of one column, and numbers its layers through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models.alexnet import AlexNet
from cnnjax.pretrained.layouts import Flatten
from cnnjax.pretrained.names import Rules

TORCHVISION: dict[str, str | Callable[..., str]] = {
    "stage1/conv1": "features.0",
    "stage2/conv1": "features.3",
    "stage3/conv#": lambda conv: f"features.{4 + 2 * conv}",
    "head/dense#": lambda dense: f"classifier.{3 * dense - 2}",
    "head/classifier": "classifier.6",
}


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, AlexNet)
    layouts = {"head/dense1/kernel": Flatten(channels=model.features[-1])}
    torchvision = {"torchvision": Rules(TORCHVISION, layouts)} if name == "alexnet_owt" else {}
    return torchvision | {"torch": Rules(layouts=layouts)}
