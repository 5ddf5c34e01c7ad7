"""MobileNetV2: torchvision counts through all blocks and the layers of a block, Keras the blocks, timm the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import flax.linen as nn

from cnnjax.models.mobilenet_v2 import MobileNetV2
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.names import Rules


def timm_rules(stages: Sequence[Sequence[object]], repeats: Iterable[int]) -> Rules:
    """Return timm's names of a network of inverted residuals whose first block alone does not expand.

    Args:
      stages: the blocks of each stage.
      repeats: blocks of each row of the paper's table, in the order of depth.
    """
    places = [(stage, block) for stage, blocks in enumerate(stages, 1) for block in range(1, len(blocks) + 1)]
    rows = [f"blocks.{row}.{layer}" for row, count in enumerate(repeats) for layer in range(count)]
    at = dict(zip(places, rows, strict=True))
    last_block = f"stage{len(stages)}/block{len(stages[-1]) + 1}"
    # That block is timm's depthwise separable convolution.
    separable = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    inverted = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}

    def layer(stage: int, block: int, kind: str, which: str) -> str:
        names = separable if (stage, block) == places[0] else inverted
        return f"{at[stage, block]}.{names[kind][which == 'norm']}"

    return Rules(
        {
            "stem/conv1": "conv_stem",
            "stem/norm1": "bn1",
            f"{last_block}/conv1": "conv_head",
            f"{last_block}/norm1": "bn2",
            "stage#/block#/([a-z]+)_(conv|norm)": layer,
            "head/classifier": "classifier",
        }
    )


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
    timm = timm_rules(stages, (row.n for row in model.rows))
    return {"torchvision": torchvision, "timm": timm, "keras": keras}
