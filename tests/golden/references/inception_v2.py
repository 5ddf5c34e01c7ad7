"""BN-Inception: a transcription of figure 5 of arXiv:1502.03167, with biases as in the widespread port."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from references.reference import Reference
from torch import nn
from torch.nn import functional as F

# Columns of figure 5: 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, pool, pool proj.
ROWS = {
    "2.1": (64, 64, 64, 64, 96, "avg", 32),
    "2.2": (64, 64, 96, 64, 96, "avg", 64),
    "3.1": (0, 128, 160, 64, 96, "pass", 0),
    "3.2": (224, 64, 96, 96, 128, "avg", 128),
    "3.3": (192, 96, 128, 96, 128, "avg", 128),
    "3.4": (160, 128, 160, 128, 160, "avg", 128),
    "3.5": (96, 128, 192, 160, 192, "avg", 128),
    "4.1": (0, 128, 192, 192, 256, "pass", 0),
    "4.2": (352, 192, 320, 160, 224, "avg", 128),
    "4.3": (352, 192, 320, 192, 224, "max", 128),
}


class Chain(nn.Module):
    """Convolutions with bias, batch normalisation and ReLU, each given as (outputs, kernel, stride)."""

    def __init__(self, inputs: int, *rows: tuple[int, int, int]) -> None:
        super().__init__()
        self.length = len(rows)
        for index, (outputs, kernel, stride) in enumerate(rows, start=1):
            self.add_module(f"conv{index}", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
            self.add_module(f"norm{index}", nn.BatchNorm2d(outputs))
            inputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(1, self.length + 1):
            x = getattr(self, f"norm{index}")(getattr(self, f"conv{index}")(x)).relu()
        return x


class Inception(nn.Module):
    """The module with two 3x3 convolutions in place of a 5x5; of stride 2 where it hands its pool on."""

    def __init__(self, inputs: int, row: tuple) -> None:
        super().__init__()
        one, reduce3, three, reduce_double, double, self.pool, proj = row
        stride = 2 if self.pool == "pass" else 1
        chains = [Chain(inputs, (one, 1, 1))] if one else []
        chains.append(Chain(inputs, (reduce3, 1, 1), (three, 3, stride)))
        chains.append(Chain(inputs, (reduce_double, 1, 1), (double, 3, 1), (double, 3, stride)))
        self.length = len(chains)
        chains.append(Chain(inputs, (proj, 1, 1)) if proj else Chain(inputs))
        for index, module in enumerate(chains, start=1):
            self.add_module(f"branch{index}", module)
        self.outputs = one + three + double + (proj or inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool == "pass":
            pooled = F.max_pool2d(x, 3, 2, ceil_mode=True)
        elif self.pool == "max":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1)
        branches = [getattr(self, f"branch{index}") for index in range(1, self.length + 2)]
        return torch.cat([*(branch(x) for branch in branches[:-1]), branches[-1](pooled)], 1)


class InceptionV2(nn.Module):
    """Figure 5."""

    def __init__(self, rows: Mapping[str, tuple] = ROWS) -> None:
        super().__init__()
        self.stem = Chain(3, (64, 7, 2))
        self.stage1 = Chain(64, (64, 1, 1), (192, 3, 1))
        self.stage2, self.stage3, self.stage4 = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        channels = 192
        for place, row in rows.items():
            stage, block = place.split(".")
            module = Inception(channels, row)
            getattr(self, f"stage{stage}")[f"block{block}"] = module
            channels = module.outputs
        self.head = nn.ModuleDict({"classifier": nn.Linear(channels, 1000)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.stage1(x), 3, 2, ceil_mode=True)
        for stage in (self.stage2, self.stage3, self.stage4):
            for block in stage.values():
                x = block(x)
        return self.head["classifier"](x.mean((2, 3)))


# A module of each stride and each pool.
SHORT = {
    "2.1": (16, 16, 32, 16, 24, "avg", 24),
    "3.1": (0, 24, 48, 16, 48, "pass", 0),
    "3.2": (48, 32, 64, 24, 48, "max", 32),
}

REFERENCES = [
    Reference("inception_v2", "torch", InceptionV2, training=True),
    Reference(
        "inception_v2",
        "torch",
        partial(InceptionV2, SHORT),
        training=True,
        fields={"rows": [[SHORT["2.1"]], [SHORT["3.1"], SHORT["3.2"]]]},
        short=True,
    ),
]
