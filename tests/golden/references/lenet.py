"""LeNet-5 as taught: a transcription of figure 2 of LeCun et al. 1998 with the simplifications of lectures."""

from __future__ import annotations

import torch
from references.reference import Reference
from torch import nn


class LeNet5(nn.Module):
    """C1 (6 maps, padded), S2, C3 (16 maps), S4, C5 (120), F6 (84), output (10); tanh, plain averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"conv1": nn.Conv2d(1, 6, 5, padding=2)})
        self.stage2 = nn.ModuleDict({"conv1": nn.Conv2d(6, 16, 5)})
        self.head = nn.ModuleDict(
            {"dense1": nn.Linear(16 * 5 * 5, 120), "dense2": nn.Linear(120, 84), "classifier": nn.Linear(84, 10)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(self.stage1["conv1"](x).tanh(), 2)
        x = nn.functional.avg_pool2d(self.stage2["conv1"](x).tanh(), 2).flatten(1)
        return self.head["classifier"](self.head["dense2"](self.head["dense1"](x).tanh()).tanh())


REFERENCES = [Reference("lenet5", "torch", LeNet5, size=28, channels=1, training=True)]
