"""DnCNN: a transcription of section III.A of arXiv:1608.03981."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A padded 3x3 convolution without biases."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)


class DnCNN(nn.Module):
    """Convolution and ReLU, ``depth`` - 2 times convolution, normalisation and ReLU, convolution; y - R(y)."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": conv(channels, 64)})
        self.stage1 = nn.ModuleDict(
            {
                f"block{i}": nn.ModuleDict({"conv1": conv(64, 64), "norm1": nn.BatchNorm2d(64, eps=1e-4)})
                for i in range(1, depth - 1)
            }
        )
        self.head = nn.ModuleDict({"conv1": conv(64, channels)})

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv1"](y).relu()
        for block in self.stage1.values():
            x = block["norm1"](block["conv1"](x)).relu()
        return y - self.head["conv1"](x)


REFERENCES = [
    Reference(
        f"dncnn{depth}_{colour}",
        "torch",
        partial(DnCNN, depth, channels),
        size=24,
        channels=channels,
        training=(depth, channels) == (17, 1),
    )
    for depth in (17, 20)
    for colour, channels in (("grey", 1), ("colour", 3))
]
