"""Inception v4 (timm) and Inception-ResNet v2 (timm; Keras, which numbers most layers through)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from cnnjax.models.inception_v4 import INCEPTION_RESNET_V2, STAGE1, STEM, InceptionResNetV2, InceptionV4
from cnnjax.nn.branches import count_convs
from cnnjax.pretrained.names import Absent, Rules

LAYERS = {"conv": "conv", "norm": "bn"}

# timm numbers the stem's convolutions and all modules of Inception v4 through; the first module of each stage.
V4_STARTS = {1: 3, 2: 5, 3: 10, 4: 18}
# Branches with a name of their own (after the module's position), where "*" is the convolution's number less one;
# the others are branch0, branch1, ... with that number behind a dot. First modules of stages, then the rest.
V4_BRANCHES = {
    (1, 1): {2: "conv"},
    (2, 1): {1: "conv"},
    (3, 1): {1: "branch0"},
    **{(stage, 0): {1: "branch0", 4: "branch3.1"} for stage in (2, 3)},
    (4, 0): {1: "branch0", 2: "branch1_*", 3: "branch2_*", 4: "branch3.1"},
}
# The modules that fork give the two ends of a branch one number and a letter.
V4_FORKS = {2: {2: "1a", 3: "1b"}, 3: {4: "3a", 5: "3b"}}


def _v4(stage: str, block: str, branch: str, layer: str, number: str) -> str:
    s, m, b, n = int(stage), int(block), int(branch), int(number)
    kind = (s, m) if m == 1 or s == 1 else (s, 0)
    text = V4_BRANCHES.get(kind, {}).get(b, f"branch{b - 1}.*")
    label = V4_FORKS.get(b, {}).get(n, n - 1) if kind == (4, 0) else n - 1
    return f"features.{V4_STARTS[s] + m - 1}.{text.replace('*', str(label))}.{LAYERS[layer]}"


TIMM_V4 = Rules(
    {
        "stem/(conv|norm)#": lambda layer, number: f"features.{int(number) - 1}.{LAYERS[layer]}",
        "stage#/block#/branch#/(conv|norm)#": _v4,
        "head/classifier": "last_linear",
    }
)

# Inception-ResNet v2: the convolutions outside of modules, the modules that start a stage and those that follow.
RESNET_LAYERS = {
    "stem": ("conv2d_1a", "conv2d_2a", "conv2d_2b"),
    "stage1": ("conv2d_3b", "conv2d_4a"),
    "stage4/block12": ("conv2d_7b",),
}
RESNET_MODULES = {2: ("mixed_5b", "repeat"), 3: ("mixed_6a", "repeat_1"), 4: ("mixed_7a", "repeat_2")}


def _resnet_module(stage: str, block: str) -> str:
    if (int(stage), int(block)) == (4, 11):
        return "block8"
    first, others = RESNET_MODULES[int(stage)]
    return first if int(block) == 1 else f"{others}.{int(block) - 2}"


def _resnet_branch(stage: str, block: str, branch: str, layer: str, number: str) -> str:
    module, b, n = _resnet_module(stage, block), int(branch), int(number)
    alone = b == 1 and module != "mixed_7a"
    position = "" if alone else f".{n}" if (module, b) == ("mixed_5b", 4) else f".{n - 1}"
    return f"{module}.branch{b - 1}{position}.{LAYERS[layer]}"


TIMM_RESNET = Rules(
    {
        "(stem|stage1|stage4/block12)/(conv|norm)#": lambda part, layer, number: (
            f"{RESNET_LAYERS[part][int(number) - 1]}.{LAYERS[layer]}"
        ),
        "stage#/block#/branch#/(conv|norm)#": _resnet_branch,
        "stage#/block#/expand_conv": lambda stage, block: f"{_resnet_module(stage, block)}.conv2d",
        "head/classifier": "classif",
    }
)


def _keras_order() -> Mapping[str, int]:
    """Return the running number of each unnamed convolution, in the order in which Keras builds the network."""
    chains = {"stem": STEM, "stage1": STAGE1} | {
        f"stage{stage}/block{block}/branch{branch}": layers
        for stage, (first, module, count, _) in enumerate(INCEPTION_RESNET_V2, start=2)
        for block, branches in enumerate((first, *(module,) * count), start=1)
        for branch, layers in enumerate(branches, start=1)
    }
    paths = [f"{prefix}/{number + 1}" for prefix, layers in chains.items() for number in range(count_convs(layers))]
    return {path: index for index, path in enumerate(paths)}


KERAS_ORDER = _keras_order()
KERAS_LAYERS = {"conv": "conv2d", "norm": "batch_normalization"}
KERAS_RESIDUALS = {2: "block35", 3: "block17", 4: "block8"}


def _keras(prefix: str, layer: str, number: str) -> str:
    index = KERAS_ORDER[f"{prefix}/{number}"]
    return KERAS_LAYERS[layer] + (f"_{index}" if index else "")


KERAS_RESNET: dict[str, str | Callable[..., str] | Absent] = {
    "stage4/block12/conv1": "conv_7b",
    "stage4/block12/norm1": "conv_7b_bn",
    "(.+)/(conv|norm)#": _keras,
    "stage#/block#/expand_conv": lambda stage, block: f"{KERAS_RESIDUALS[int(stage)]}_{int(block) - 1}_conv",
    "head/classifier": "predictions",
}


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, InceptionV4)
    if not isinstance(model, InceptionResNetV2):
        return {"timm": TIMM_V4}
    # Keras has no scales.
    absent: dict[str, str | Callable[..., str] | Absent] = {".*/norm#/scale": Absent(1.0)} if model.norm_scale else {}
    return {"timm": TIMM_RESNET, "keras": Rules(absent | KERAS_RESNET)}
