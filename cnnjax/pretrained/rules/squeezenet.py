"""SqueezeNet: torchvision numbers convolutions, pools and fire modules through."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.squeezenet import SqueezeNet
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, SqueezeNet)
    sizes = [len(blocks) for blocks in model.squeeze_features]

    def fire(stage: int, block: int) -> str:
        # Before it: convolution, ReLU, and a pool for each stage that has begun.
        return f"features.{2 + stage + sum(sizes[: stage - 1]) + block - 1}"

    return {
        "torchvision": Rules(
            {
                "stem/conv1": "features.0",
                "stage#/block#": fire,
                "squeeze_conv": "squeeze",
                "expand_conv1": "expand1x1",
                "expand_conv2": "expand3x3",
                "head/classifier": "classifier.1",
            }
        )
    }
