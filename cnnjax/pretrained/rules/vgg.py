"""VGG: torchvision and timm number the layers of all stages through, Keras names them by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models.vgg import VGG
from cnnjax.pretrained.layouts import Expand, Flatten
from cnnjax.pretrained.names import Rules

KERAS = Rules(
    {
        "stage#/conv#": "block{}_conv{}",
        "head/dense#": "fc{}",
        "head/classifier": "predictions",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, VGG)
    # Convolution, normalisation if any, ReLU; a pool ends each stage.
    step = 3 if model.batch_norm else 2

    def place(stage: int, layer: int) -> int:
        return sum(size * step + 1 for size in model.stage_sizes[: stage - 1]) + (layer - 1) * step

    features: dict[str, str | Callable[..., str]] = {
        "stage#/conv#": lambda stage, layer: f"features.{place(stage, layer)}",
        "stage#/norm#": lambda stage, layer: f"features.{place(stage, layer) + 1}",
    }
    flatten = {"head/dense1/kernel": Flatten(channels=model.features[-1])}
    dense: dict[str, str | Callable[..., str]] = {
        "head/dense#": lambda layer: f"classifier.{3 * layer - 3}",
        "head/classifier": "classifier.6",
    }
    # In timm the hidden dense layers are convolutions as large as the maps they see.
    convs = {"head/dense1/kernel": Expand(model.pool_size), "head/dense2/kernel": Expand()}
    sources = {
        "torchvision": Rules(features | dense, flatten),
        "timm": Rules(features | {"head/dense#": "pre_logits.fc{}", "head/classifier": "head.fc"}, convs),
        "torch": Rules(layouts=flatten),
    }
    return sources | ({"keras": KERAS} if name in ("vgg16", "vgg19") else {})
