"""MobileNetV3: torchvision counts through all blocks, and through the layers of a block; Keras counts the blocks."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.mobilenet_v3 import STEM_FEATURES, MobileNetV3
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.layouts import Expand
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    Keras's network pads as TensorFlow does: its weights belong to ``create_model(name, padding="SAME")``.
    """
    assert isinstance(model, MobileNetV3)
    number: dict[tuple[int, int], int] = {}
    layers: dict[tuple[int, int], list[str]] = {}
    in_features = STEM_FEATURES
    stages = split_stages((model.block_fields(row) for row in model.rows), output_stride=model.output_stride)
    for stage, blocks in enumerate(stages, start=1):
        for block, fields in enumerate(blocks, start=1):
            number[stage, block] = len(number) + 1
            expands = fields["expanded_features"] != in_features
            attends = fields["squeeze_features"] > 0
            layers[stage, block] = ["expand"] * expands + ["depthwise"] + ["squeeze_excite"] * attends + ["project"]
            in_features = fields["features"]
    last_block = f"stage{len(stages)}/block{len(stages[-1]) + 1}"

    def torchvision_layer(stage: int, block: int, layer: str) -> str:
        return f"features.{number[stage, block]}.block.{layers[stage, block].index(layer)}"

    def keras_block(stage: int, block: int) -> str:
        return "expanded_conv" if number[stage, block] == 1 else f"expanded_conv_{number[stage, block] - 1}"

    torchvision = Rules(
        {
            "stem": "features.0",
            last_block: f"features.{len(number) + 1}",
            "conv1": "0",
            "norm1": "1",
            "stage#/block#/(squeeze_excite)": torchvision_layer,
            "squeeze_conv": "fc1",
            "excite_conv": "fc2",
            "stage#/block#/([a-z]+)_conv": lambda *at: f"{torchvision_layer(*at)}.0",
            "stage#/block#/([a-z]+)_norm": lambda *at: f"{torchvision_layer(*at)}.1",
            "head/dense1": "classifier.0",
            "head/classifier": "classifier.3",
        }
    )
    keras = Rules(
        {
            "stem/conv1": "conv",
            "stem/norm1": "conv_bn",
            f"{last_block}/conv1": "conv_1",
            f"{last_block}/norm1": "conv_1_bn",
            "stage#/block#": keras_block,
            "squeeze_excite/squeeze_conv": "squeeze_excite_conv",
            "squeeze_excite/excite_conv": "squeeze_excite_conv_1",
            "([a-z]+)_conv": "{}",
            "([a-z]+)_norm": "{}_bn",
            "head/dense1": "conv_2",
            "head/classifier": "logits",
        },
        layouts={"head/(dense1|classifier)/kernel": Expand(transpose=False)},
    )
    return {"torchvision": torchvision, "keras": keras}
