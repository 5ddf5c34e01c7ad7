"""The fully connected network of section III.C.5 of LeCun et al. 1998: 28x28-300-100-10, rectified."""

from __future__ import annotations

import torch
from references.reference import Reference
from torch import nn


class MLP(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"dense1": nn.Linear(784, 300)})
        self.stage2 = nn.ModuleDict({"dense1": nn.Linear(300, 100)})
        self.head = nn.ModuleDict({"classifier": nn.Linear(100, 10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage1["dense1"](x.flatten(1)).relu()
        return self.head["classifier"](self.stage2["dense1"](x).relu())


REFERENCES = [Reference("mlp", "torch", MLP, size=28, channels=1, training=True)]
