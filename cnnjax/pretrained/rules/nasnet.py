"""NASNet: Keras counts all cells through, timm (``nasnetalarge``) normal and reduction cells apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models.nasnet import NASNet
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    No zero wins a maximum in timm's network: its weights belong to ``create_model(name, pool_padding="SAME")``.
    """
    assert isinstance(model, NASNet)
    repeats = model.repeats

    def keras_cell(stage: int, block: int) -> tuple[str, str]:
        """Return the kind and the label of a cell; labels leave out the number of each reduction in the middle."""
        before = repeats * (stage - 2)
        if block == 1:
            return "reduction", f"stem_{stage}" if stage <= 2 else f"reduce_{before}"
        return "normal", str(before + block - 2 + (stage > 2))

    def keras_separable(stage: int, block: int, side: str, number: int, layer: str) -> str:
        kind, label = keras_cell(stage, block)
        # Keras gives the reduction cell's fifth sum the name of the fourth, which has no weights.
        place = 4 if (kind, number) == ("reduction", 5) else number
        return f"separable_conv_{layer}_{kind}_{side}{place}_{label}"

    def keras_kernel(stage: int, block: int, side: str, number: int, kind: str, layer: int) -> str:
        return f"{keras_separable(stage, block, side, number, str(layer))}/{kind}_kernel"

    def keras_norm(stage: int, block: int, side: str, number: int, layer: int) -> str:
        return keras_separable(stage, block, side, number, f"{layer}_bn")

    def keras_input(stage: int, block: int, layer: str) -> str:
        kind, label = keras_cell(stage, block)
        return f"{kind}_{'conv' if layer == 'conv' else 'bn'}_1_{label}"

    def keras_previous(layer: str) -> Callable[[int, int], str]:
        return lambda stage, block: f"adjust_{layer}_{keras_cell(stage, block)[1]}"

    keras = Rules(
        {
            "stem/conv1": "stem_conv1",
            "stem/norm1": "stem_bn1",
            "stage#/block#/(left|right)#/(depthwise|pointwise)_conv#/kernel": keras_kernel,
            "stage#/block#/(left|right)#/norm#": keras_norm,
            "stage#/block#/(conv|norm)1": keras_input,
            "stage#/block#/previous/conv1": keras_previous("conv_1"),
            "stage#/block#/previous/conv2": keras_previous("conv_2"),
            "stage#/block#/previous/proj_conv": keras_previous("conv_projection"),
            "stage#/block#/previous/norm1": keras_previous("bn"),
            "head/classifier": "predictions",
        }
    )

    def timm_cell(stage: int, block: int) -> str:
        if block > 1:
            return f"cell_{repeats * (stage - 2) + block - 2}"
        return f"cell_stem_{stage - 1}" if stage <= 2 else f"reduction_cell_{stage - 3}"

    timm = Rules(
        {
            "stem/conv1": "conv0.conv",
            "stem/norm1": "conv0.bn",
            # What halves an earlier output has two convolutions, and a norm of another name.
            "stage2/block1/previous/norm1": f"{timm_cell(2, 1)}.final_path_bn",
            "stage#/block2/previous/norm1": lambda stage: f"{timm_cell(stage, 2)}.final_path_bn",
            "stage#/block#": timm_cell,
            "(left|right)#/norm#": lambda side, number, layer: f"comb_iter_{number - 1}_{side}.bn_sep_{layer}",
            "(left|right)#": lambda side, number: f"comb_iter_{number - 1}_{side}",
            "(depthwise|pointwise)_conv#": "separable_{1}.{0}_conv2d",
            "norm1": "conv_1x1.bn",
            "conv1": "conv_1x1.conv",
            "previous/conv#": "path_{}.conv",
            "previous/proj_conv": "conv_prev_1x1.conv",
            "previous/norm1": "conv_prev_1x1.bn",
            "head/classifier": "last_linear",
        }
    )
    return {"keras": keras} | ({"timm": timm} if name == "nasnet_large" else {})
