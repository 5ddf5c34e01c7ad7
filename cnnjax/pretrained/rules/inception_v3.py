"""Inception v3: torchvision and timm use the same names; Keras numbers its layers through."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.inception_v3 import STAGE1, STEM, InceptionV3, table1
from cnnjax.nn.branches import count_convs
from cnnjax.pretrained.names import Absent, Rules

LAYERS = {"conv": "conv", "norm": "bn"}
STEM_LAYERS = {
    "stem": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    "stage1": ("Conv2d_3b_1x1", "Conv2d_4a_3x3"),
}
# By stage, the branches of its first module and of the others; "*" stands for the convolution's number.
MODULES = {
    2: (
        ("branch1x1", "branch5x5_*", "branch3x3dbl_*", "branch_pool"),
        ("branch1x1", "branch5x5_*", "branch3x3dbl_*", "branch_pool"),
    ),
    3: (
        ("branch3x3", "branch3x3dbl_*"),
        ("branch1x1", "branch7x7_*", "branch7x7dbl_*", "branch_pool"),
    ),
    4: (
        ("branch3x3_*", "branch7x7x3_*"),
        ("branch1x1", "branch3x3_*", "branch3x3dbl_*", "branch_pool"),
    ),
}
# The modules that fork give the two ends of a branch one number and a letter.
FORKS = {"branch3x3": {2: "2a", 3: "2b"}, "branch3x3dbl": {3: "3a", 4: "3b"}}


def _torchvision(stage: str, block: str, branch: str, layer: str, number: str) -> str:
    first = int(block) == 1
    letter = chr(ord("b" if int(stage) == 2 else "a") + int(block) - 1)
    text = MODULES[int(stage)][0 if first else 1][int(branch) - 1]
    forks = FORKS if int(stage) == 4 and not first else {}
    label = forks.get(text.removesuffix("_*"), {}).get(int(number), number)
    return f"Mixed_{int(stage) + 3}{letter}.{text.replace('*', str(label))}.{LAYERS[layer]}"


TORCHVISION = Rules(
    {
        "(stem|stage1)/(conv|norm)#": lambda stage, layer, n: f"{STEM_LAYERS[stage][int(n) - 1]}.{LAYERS[layer]}",
        "stage#/block#/branch#/(conv|norm)#": _torchvision,
        "aux1/(conv|norm)#": lambda layer, number: f"AuxLogits.conv{int(number) - 1}.{LAYERS[layer]}",
        "aux1/classifier": "AuxLogits.fc",
        "head/classifier": "fc",
    }
)


def _keras_order() -> Mapping[str, int]:
    """Return the running number of each convolution, in the order in which Keras builds the network."""
    chains = {"stem": STEM, "stage1": STAGE1} | {
        f"stage{stage}/block{block}/branch{branch}": layers
        for stage, modules in enumerate(table1(nn.relu), start=2)
        for block, branches in enumerate(modules, start=1)
        for branch, layers in enumerate(branches, start=1)
    }
    paths = [f"{prefix}/{number + 1}" for prefix, layers in chains.items() for number in range(count_convs(layers))]
    return {path: index for index, path in enumerate(paths)}


KERAS_ORDER = _keras_order()
KERAS_LAYERS = {"conv": "conv2d", "norm": "batch_normalization"}


def _keras(prefix: str, layer: str, number: str) -> str:
    index = KERAS_ORDER[f"{prefix}/{number}"]
    return KERAS_LAYERS[layer] + (f"_{index}" if index else "")


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source; Keras has no auxiliary classifier."""
    assert isinstance(model, InceptionV3)
    found = {"torchvision": TORCHVISION, "timm": TORCHVISION}
    if not model.aux_classifiers:
        scale = {".*/norm#/scale": Absent(1.0)} if model.norm_scale else {}
        found["keras"] = Rules(scale | {"(.+)/(conv|norm)#": _keras, "head/classifier": "predictions"})
    return found
