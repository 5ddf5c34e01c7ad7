"""MobileNetV2: torchvision counts through all blocks, and through the layers of a block; Keras counts the blocks."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.mobilenet_v2 import MobileNetV2
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    Keras's network pads as TensorFlow does: its weights belong to
    ``create_model(name, padding="SAME", epsilon=1e-3)``.
    """
    assert isinstance(model, MobileNetV2)
    stages = split_stages(model.blocks(), output_stride=model.output_stride)
    places = [(stage, block) for stage, blocks in enumerate(stages, 1) for block in range(1, len(blocks) + 1)]
    number = {place: index for index, place in enumerate(places, start=1)}
    last_block = f"stage{len(stages)}/block{len(stages[-1]) + 1}"

    def torchvision_layer(stage: int, block: int, layer: str) -> str:
        # Only the first block does not expand; a projection has no wrapper around its convolution and norm.
        position = ("expand", "depthwise", "project").index(layer) - (number[stage, block] == 1)
        return f"features.{number[stage, block]}.conv.{position}"

    torchvision = Rules(
        {
            "stem": "features.0",
            last_block: f"features.{len(number) + 1}",
            "conv1": "0",
            "norm1": "1",
            "stage#/block#/(project)_conv": torchvision_layer,
            "stage1/block1/project_norm": "features.1.conv.2",
            "stage#/block#/project_norm": lambda *place: f"features.{number[place]}.conv.3",
            "stage#/block#/([a-z]+)_conv": lambda *at: f"{torchvision_layer(*at)}.0",
            "stage#/block#/([a-z]+)_norm": lambda *at: f"{torchvision_layer(*at)}.1",
            "head/classifier": "classifier.1",
        }
    )
    keras = Rules(
        {
            "stem/conv1": "Conv1",
            "stem/norm1": "bn_Conv1",
            f"{last_block}/conv1": "Conv_1",
            f"{last_block}/norm1": "Conv_1_bn",
            "stage1/block1": "expanded_conv",
            "stage#/block#": lambda *place: f"block_{number[place] - 1}",
            "([a-z]+)_conv": "{}",
            "([a-z]+)_norm": "{}_BN",
            "head/classifier": "predictions",
        }
    )
    return {"torchvision": torchvision, "keras": keras}
