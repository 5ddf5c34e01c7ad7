"""LR-ASPP as torchvision names it."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.lraspp import LRASPP
from cnnjax.pretrained.names import Rules
from cnnjax.pretrained.rules.fcn import encoder


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, LRASPP)
    head = {
        "head/conv1": "classifier.cbr.0",
        "head/norm1": "classifier.cbr.1",
        "head/scale_conv": "classifier.scale.1",
        "head/classifier": "classifier.high_classifier",
        "head/low_classifier": "classifier.low_classifier",
    }
    return {"torchvision": Rules({**encoder(model.backbone), **head})}
