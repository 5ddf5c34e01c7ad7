"""FCN, and what torchvision's segmentation networks share: the backbone's names, and those of the auxiliary head."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models import create_model, model_info
from cnnjax.models.fcn import FCN
from cnnjax.pretrained.names import Rules
from cnnjax.pretrained.rules import mobilenet_v3, resnet

BACKBONE_RULES = {"resnet": resnet.rules, "mobilenet_v3": mobilenet_v3.rules}


def encoder(backbone: str) -> dict[str, Callable[..., str]]:
    """Return the rule of an encoder: the names of the classifier that it is, below "backbone"."""
    classifier = BACKBONE_RULES[model_info(backbone).family](backbone, create_model(backbone))["torchvision"]

    def name(layer: str) -> str:
        return f"backbone.{classifier.name(layer, {}, 'torchvision')}".replace("backbone.features.", "backbone.")

    return {"encoder/(.+)(?=/)": name}


def pixel_classifier(ours: str, theirs: str) -> dict[str, str]:
    """Return the rules of a `cnnjax.nn.building.PixelClassifierHead`: positions in torchvision's sequence."""
    return {f"{ours}/conv1": f"{theirs}.0", f"{ours}/norm1": f"{theirs}.1", f"{ours}/classifier": f"{theirs}.4"}


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, FCN)
    heads = pixel_classifier("head", "classifier") | pixel_classifier("aux1", "aux_classifier")
    return {"torchvision": Rules({**encoder(model.backbone), **heads})}
