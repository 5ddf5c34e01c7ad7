"""ConvNeXt: torchvision's sequence of downsampling layers and stages, timm's and Keras's named layers."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.convnext import ConvNeXt
from cnnjax.pretrained.layouts import SAME, Append
from cnnjax.pretrained.names import Rules

TORCHVISION = Rules(
    {
        "stem/conv1": "features.0.0",
        "stem/norm1": "features.0.1",
        "stage#/norm1": lambda stage: f"features.{2 * stage - 2}.0",
        "stage#/conv1": lambda stage: f"features.{2 * stage - 2}.1",
        "stage#/block#": lambda stage, block: f"features.{2 * stage - 1}.{block - 1}",
        "conv1": "block.0",
        "norm1": "block.2",
        "dense1": "block.3",
        "dense2": "block.5",
        "head/norm1": "classifier.0",
        "head/classifier": "classifier.2",
    },
    layouts={"stage#/block#/layer_scale": Append(2)},
)
TIMM = Rules(
    {
        "stem/conv1": "stem.0",
        "stem/norm1": "stem.1",
        "stage#/norm1": "stages.{:-1}.downsample.0",
        "stage#/conv1": "stages.{:-1}.downsample.1",
        "stage#/block#": "stages.{:-1}.blocks.{:-1}",
        "conv1": "conv_dw",
        "norm1": "norm",
        "dense#": "mlp.fc{}",
        "layer_scale": "gamma",
        "head/norm1": "head.norm",
        "head/classifier": "head.fc",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, ConvNeXt)

    def downsampling(layer: str) -> str:
        return f"{name}_downsampling_block_{{0:-2}}/{name}_downsampling_{layer}_{{0:-2}}"

    def layer_scale(stage: int, block: int) -> str:
        """Keras leaves these arrays unnamed, and numbers them through."""
        before = sum(model.stage_sizes[: stage - 1]) + block - 1
        return f"{name}_stage_{stage - 1}_block_{block - 1}_layer_scale/variable" + (f"_{before}" if before else "")

    keras = Rules(
        {
            "stem/conv1": f"{name}_stem/{name}_stem_conv",
            "stem/norm1": f"{name}_stem/{name}_stem_layernorm",
            "stage#/norm1": downsampling("layernorm"),
            "stage#/conv1": downsampling("conv"),
            "stage#/block#/layer_scale": layer_scale,
            "stage#/block#": f"{name}_stage_{{:-1}}_block_{{:-1}}",
            "conv1": "depthwise_conv",
            "norm1": "layernorm",
            "dense#": "pointwise_conv_{}",
            "head/norm1": f"{name}_head_layernorm",
            "head/classifier": f"{name}_head_dense",
        },
        # Keras's depthwise convolution here is an ordinary one in groups.
        layouts={"stage#/block#/conv1/kernel": SAME},
    )
    return {"timm": TIMM, "keras": keras} | ({} if name == "convnext_xlarge" else {"torchvision": TORCHVISION})
