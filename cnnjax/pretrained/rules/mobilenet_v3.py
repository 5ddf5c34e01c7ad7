"""MobileNetV3: torchvision counts through all blocks and their layers, timm the rows of the table, Keras the blocks."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.mobilenet_v3 import STEM_FEATURES, MobileNetV3
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.layouts import Expand
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    Keras's network pads as TensorFlow does, and so do timm's whose names begin with ``tf_``: their weights belong to
    ``create_model(name, padding="SAME")``. Those of timm's others belong to ``create_model(name, epsilon=1e-5)``.
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

    # timm's stages end where the resolution or the width changes.
    rows: list[tuple[int, int]] = []
    for index, row in enumerate(model.rows):
        last = model.rows[index - 1]
        new = index == 0 or row.s == 2 or row.out != last.out
        rows.append((rows[-1][0] + 1 if rows else 0, 0) if new else (rows[-1][0], rows[-1][1] + 1))

    def timm_block(stage: int, block: int) -> str:
        row, layer = rows[number[stage, block] - 1]
        return f"blocks.{row}.{layer}"

    def timm_conv(stage: int, block: int, kind: str) -> str:
        names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        # A block that does not expand is timm's depthwise separable convolution.
        separable = kind == "project" and "expand" not in layers[stage, block]
        return f"{timm_block(stage, block)}.{'conv_pw' if separable else names[kind]}"

    def timm_norm(stage: int, block: int, kind: str) -> str:
        normalised = [layer for layer in layers[stage, block] if layer != "squeeze_excite"]
        return f"{timm_block(stage, block)}.bn{normalised.index(kind) + 1}"

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
    timm = Rules(
        {
            "stem/conv1": "conv_stem",
            "stem/norm1": "bn1",
            f"{last_block}/conv1": f"blocks.{rows[-1][0] + 1}.0.conv",
            f"{last_block}/norm1": f"blocks.{rows[-1][0] + 1}.0.bn1",
            "stage#/block#/([a-z]+)_conv": timm_conv,
            "stage#/block#/([a-z]+)_norm": timm_norm,
            "stage#/block#/squeeze_excite": lambda *place: f"{timm_block(*place)}.se",
            "squeeze_conv": "conv_reduce",
            "excite_conv": "conv_expand",
            "head/dense1": "conv_head",
            "head/classifier": "classifier",
        },
        layouts={"head/dense1/kernel": Expand()},
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
    return {"torchvision": torchvision, "timm": timm, "keras": keras}
