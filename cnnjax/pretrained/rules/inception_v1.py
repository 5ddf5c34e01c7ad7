"""GoogLeNet: torchvision's names; a PyTorch twin of Inception v1 flattens channels first."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.pretrained.layouts import Flatten
from cnnjax.pretrained.names import Rules

LAYERS = {"conv": "conv", "norm": "bn"}
LAYOUTS = {"aux#/dense1/kernel": Flatten(channels=128)}


def _branch(branch: str, layer: str, number: str) -> str:
    """The first branch is a layer, the others are sequences, the last of which starts with a pool."""
    position = {1: "", 4: f".{number}"}.get(int(branch), f".{int(number) - 1}")
    return f"branch{branch}{position}.{LAYERS[layer]}"


TORCHVISION = Rules(
    {
        "stem/(conv|norm)1": lambda layer: f"conv1.{LAYERS[layer]}",
        "stage1/(conv|norm)#": lambda layer, number: f"conv{number + 1}.{LAYERS[layer]}",
        "stage#/block#": "inception{:+1}{:a}",
        "branch#/(conv|norm)#": _branch,
        "aux#/(conv|norm)1": lambda aux, layer: f"aux{aux}.conv.{LAYERS[layer]}",
        "aux#": "aux{}",
        "dense1": "fc1",
        "head/classifier": "fc",
        "classifier": "fc2",
    },
    LAYOUTS,
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"torch": Rules(layouts=LAYOUTS)} | ({"torchvision": TORCHVISION} if name == "googlenet" else {})
