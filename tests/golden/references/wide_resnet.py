"""Wide ResNet: a transcription of table 1 and figure 1 (d) of arXiv:1605.07146."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn


class WideBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; a new shape is projected from the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.proj_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.norm1(x).relu()
        y = self.conv2(self.norm2(self.conv1(activated)).relu())
        return y + (x if self.proj_conv is None else self.proj_conv(activated))


class WideResNet(nn.Module):
    """A 3x3 convolution to 16 maps, 3 groups of n blocks of 16 k, 32 k and 64 k maps, pooling, a dense layer."""

    def __init__(self, depth: int, k: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False)})
        inputs = 16
        for stage in (1, 2, 3):
            outputs = 2 ** (stage - 1) * 16 * k
            blocks = {"block1": WideBlock(inputs, outputs, 1 if stage == 1 else 2)}
            blocks |= {f"block{index}": WideBlock(outputs, outputs, 1) for index in range(2, (depth - 4) // 6 + 1)}
            self.add_module(f"stage{stage}", nn.ModuleDict(blocks))
            inputs = outputs
        self.head = nn.ModuleDict({"norm1": nn.BatchNorm2d(inputs), "classifier": nn.Linear(inputs, 10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv1"](x)
        for stage in (self.stage1, self.stage2, self.stage3):
            for block in stage.values():
                x = block(x)
        return self.head["classifier"](self.head["norm1"](x).relu().mean((2, 3)))


REFERENCES = [
    Reference(f"wrn_{depth}_{k}", "torch", partial(WideResNet, depth, k), size=16, training=depth == 16)
    for depth, k in ((16, 8), (40, 4), (28, 10))
]
