"""NASNet: Keras counts all cells through, timm (``nasnetalarge``) normal and reduction cells apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models.nasnet import NASNet
from cnnjax.pretrained.names import Rules


def halves(stage: int, block: int) -> bool:
    """Return whether a cell's earlier input is twice as large as the other: there was a reduction in between."""
    return block == 2 or (stage, block) == (2, 1)


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
        # Keras calls the reduction cell's fifth sum left4: its fourth has no weights.
        place = f"{kind}_{side}{4 if (kind, number) == ('reduction', 5) else number}_{label}"
        return f"{kind}_A_block_{label}/block_{number}/separable_conv_block_{place}/separable_conv_{layer}_{place}"

    def keras_kernel(stage: int, block: int, side: str, number: int, kind: str, layer: int) -> str:
        return f"{keras_separable(stage, block, side, number, str(layer))}/{kind}_kernel"

    def keras_norm(stage: int, block: int, side: str, number: int, layer: int) -> str:
        return keras_separable(stage, block, side, number, f"{layer}_bn")

    def keras_input(layer: str) -> Callable[[int, int], str]:
        def name(stage: int, block: int) -> str:
            kind, label = keras_cell(stage, block)
            return f"{kind}_A_block_{label}/{kind}_{layer}_1_{label}"

        return name

    def keras_previous(layer: str) -> Callable[[int, int], str]:
        def name(stage: int, block: int) -> str:
            kind, label = keras_cell(stage, block)
            scope = "reduction" if halves(stage, block) else "projection"
            return f"{kind}_A_block_{label}/adjust_block/adjust_{scope}_block_{label}/adjust_{layer}_{label}"

        return name

    keras = Rules(
        {
            "stem/conv1": "stem_conv1",
            "stem/norm1": "stem_bn1",
            "stage#/block#/(left|right)#/(depthwise|pointwise)_conv#/kernel": keras_kernel,
            "stage#/block#/(left|right)#/norm#": keras_norm,
            "stage#/block#/conv1": keras_input("conv"),
            "stage#/block#/norm1": keras_input("bn"),
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

    def timm_previous_norm(stage: int, block: int) -> str:
        return f"{timm_cell(stage, block)}.{'final_path_bn' if halves(stage, block) else 'conv_prev_1x1.bn'}"

    timm = Rules(
        {
            "stem/conv1": "conv0.conv",
            "stem/norm1": "conv0.bn",
            "stage#/block#/previous/norm1": timm_previous_norm,
            "stage#/block#": timm_cell,
            "(left|right)#/norm#": lambda side, number, layer: f"comb_iter_{number - 1}_{side}.bn_sep_{layer}",
            "(left|right)#": lambda side, number: f"comb_iter_{number - 1}_{side}",
            "(depthwise|pointwise)_conv#": "separable_{1}.{0}_conv2d",
            "norm1": "conv_1x1.bn",
            "conv1": "conv_1x1.conv",
            "previous/conv#": "path_{}.conv",
            "previous/proj_conv": "conv_prev_1x1.conv",
            "head/classifier": "last_linear",
        }
    )
    return {"keras": keras} | ({"timm": timm} if name == "nasnet_large" else {})
