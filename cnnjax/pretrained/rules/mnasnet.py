"""MnasNet: torchvision counts every layer, activations included, in two or three nested sequences; timm the rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import flax.linen as nn

from cnnjax.models.mnasnet import MNASNet
from cnnjax.nn.building import split_stages
from cnnjax.pretrained.names import Rules
from cnnjax.pretrained.rules.mobilenet_v2 import timm_rules

# Positions of a block's layers. The first block does not expand; its layers are the network's own from 3 on.
LAYERS = {"expand": 0, "depthwise": 3, "project": 6}
FIRST_STACK = 8


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source.

    torchvision's module wants the version of its state dict to load one, which arrays do not carry: start from
    ``state = module.state_dict()`` and ``state.update(...)``.
    """
    assert isinstance(model, MNASNet)
    stages = split_stages(model.blocks(), output_stride=model.output_stride)
    before = list(accumulate(map(len, stages), initial=0))
    stacks = [(row, repeat) for row, line in enumerate(model.rows) for repeat in range(line.repeats)]

    def position(stage: int, block: int, layer: str, offset: int) -> str:
        row, repeat = stacks[before[stage - 1] + block - 1]
        if row == 0:
            return f"layers.{LAYERS[layer] + offset}"
        return f"layers.{FIRST_STACK + row - 1}.{repeat}.layers.{LAYERS[layer] + offset}"

    last_block = f"stage{len(stages)}/block{len(stages[-1]) + 1}"
    last = FIRST_STACK + len(model.rows) - 1
    torchvision = Rules(
        {
            "stem/conv1": "layers.0",
            "stem/norm1": "layers.1",
            f"{last_block}/conv1": f"layers.{last}",
            f"{last_block}/norm1": f"layers.{last + 1}",
            "stage#/block#/([a-z]+)_conv": lambda stage, block, layer: position(stage, block, layer, 0),
            "stage#/block#/([a-z]+)_norm": lambda stage, block, layer: position(stage, block, layer, 1),
            "head/classifier": "classifier.1",
        }
    )
    return {"torchvision": torchvision, "timm": timm_rules(stages, (row.repeats for row in model.rows))}
