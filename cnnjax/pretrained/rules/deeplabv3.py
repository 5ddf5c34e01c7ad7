"""DeepLabv3 as torchvision names it."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.deeplabv3 import DeepLabV3
from cnnjax.pretrained.names import Rules
from cnnjax.pretrained.rules.fcn import encoder, pixel_classifier


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, DeepLabV3)
    pooling = len(model.rates) + 2
    head = {
        # Its first position takes the mean.
        f"head/branch{pooling}/conv1": f"classifier.0.convs.{pooling - 1}.1",
        f"head/branch{pooling}/norm1": f"classifier.0.convs.{pooling - 1}.2",
        "head/branch#": "classifier.0.convs.{:-1}",
        "head/project": "classifier.0.project",
        "head/smooth/conv1": "classifier.1",
        "head/smooth/norm1": "classifier.2",
        "head/classifier": "classifier.4",
    }
    layers = {"conv1": "0", "norm1": "1"}
    aux = pixel_classifier("aux1", "aux_classifier")
    return {"torchvision": Rules({**encoder(model.backbone), **head, **aux, **layers})}
