"""MobileNet: timm counts stages and their blocks, Keras counts all blocks and classifies with a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import flax.linen as nn

from cnnjax.models.mobilenet_v1 import MobileNetV1
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.layouts import Expand
from cnnjax.pretrained.names import Rules

TIMM = Rules(
    {
        "stem/conv1": "conv_stem",
        "stem/norm1": "bn1",
        "stage#/block#": "blocks.{:-1}.{:-1}",
        "depthwise_conv": "conv_dw",
        "depthwise_norm": "bn1",
        "pointwise_conv": "conv_pw",
        "pointwise_norm": "bn2",
        "head/classifier": "classifier",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    Keras's network pads as TensorFlow does: its weights belong to
    ``create_model(name, padding="SAME", epsilon=1e-3)``.
    """
    assert isinstance(model, MobileNetV1)
    stages = split_stages(({"strides": strides} for _, strides in model.rows), output_stride=model.output_stride)
    before = list(accumulate(map(len, stages), initial=0))
    keras = Rules(
        {
            "stem/conv1": "conv1",
            "stem/norm1": "conv1_bn",
            "stage#/block#/(d|p)[a-z]+_conv": lambda stage, block, kind: f"conv_{kind}w_{before[stage - 1] + block}",
            "stage#/block#/(d|p)[a-z]+_norm": lambda stage, block, kind: f"conv_{kind}w_{before[stage - 1] + block}_bn",
            "head/classifier": "conv_preds",
        },
        layouts={"head/classifier/kernel": Expand(transpose=False)},
    )
    return {"timm": TIMM, "keras": keras}
