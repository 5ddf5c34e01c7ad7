"""Airbench: a transcription of arXiv:2404.00498, section 3, and of what the larger networks have besides."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn


class Norm(nn.BatchNorm2d):
    """Learns a bias alone; keeps 0.6 of its statistics, or 0.9."""

    def __init__(self, features: int, kept: float) -> None:
        super().__init__(features, eps=1e-12, momentum=1 - kept)
        self.weight = None


class Group(nn.Module):
    """Convolution, pooling, normalisation and GELU; then one more, or two around which there is a shortcut."""

    def __init__(self, inputs: int, outputs: int, convolutions: int, kept: float) -> None:
        super().__init__()
        for index in range(1, convolutions + 1):
            self.add_module(
                f"conv{index}", nn.Conv2d(inputs if index == 1 else outputs, outputs, 3, padding=1, bias=False)
            )
            self.add_module(f"norm{index}", Norm(outputs, kept))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.norm1(nn.functional.max_pool2d(self.conv1(x), 2)))
        y = self.norm2(self.conv2(x))
        if hasattr(self, "conv3"):
            y = x + self.norm3(self.conv3(nn.functional.gelu(y)))
        return nn.functional.gelu(y)


class Airbench(nn.Module):
    """A 2x2 convolution to 24 maps, three groups, the maximum of each map, and a dense layer whose outputs are / 9."""

    def __init__(self, widths: tuple[int, ...], convolutions: int, kept: float) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 24, 2)})
        inputs = 24
        for stage, outputs in enumerate(widths, start=1):
            self.add_module(f"stage{stage}", Group(inputs, outputs, convolutions, kept))
            inputs = outputs
        self.head = nn.ModuleDict({"classifier": nn.Linear(inputs, 10, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.stem["conv1"](x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head["classifier"](x.amax((2, 3))) / 9


REFERENCES = [
    Reference("airbench94", "torch", partial(Airbench, (64, 256, 256), 2, 0.6), size=32, training=True),
    Reference("airbench95", "torch", partial(Airbench, (128, 384, 384), 2, 0.6), size=32),
    Reference("airbench96", "torch", partial(Airbench, (128, 384, 512), 3, 0.9), size=32, training=True),
    Reference(
        "airbench96",
        "torch",
        partial(Airbench, (8, 12, 16), 3, 0.9),
        size=32,
        training=True,
        fields={"widths": [8, 12, 16]},
        short=True,
    ),
]
