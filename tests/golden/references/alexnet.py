"""AlexNet: torchvision's, and a transcription of section 3.5 of Krizhevsky et al. 2012."""

from __future__ import annotations

import torch
import torchvision
from references.reference import Reference
from torch import nn


class TwoColumns(nn.Module):
    """The network of figure 2: the convolutions 2, 4 and 5 stay within one GPU's half of the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"conv1": nn.Conv2d(3, 96, 11, 4)})
        self.stage2 = nn.ModuleDict({"conv1": nn.Conv2d(96, 256, 5, padding=2, groups=2)})
        self.stage3 = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(256, 384, 3, padding=1),
                "conv2": nn.Conv2d(384, 384, 3, padding=1, groups=2),
                "conv3": nn.Conv2d(384, 256, 3, padding=1, groups=2),
            }
        )
        self.head = nn.ModuleDict(
            {
                "dense1": nn.Linear(6 * 6 * 256, 4096),
                "dense2": nn.Linear(4096, 4096),
                "classifier": nn.Linear(4096, 1000),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75; PyTorch divides its alpha by n.
        for stage in (self.stage1, self.stage2):
            x = nn.functional.local_response_norm(stage["conv1"](x).relu(), 5, alpha=5e-4, beta=0.75, k=2.0)
            x = nn.functional.max_pool2d(x, 3, 2)
        for conv in self.stage3.values():
            x = conv(x).relu()
        x = nn.functional.max_pool2d(x, 3, 2).flatten(1)
        x = self.head["dense2"](self.head["dense1"](x).relu()).relu()
        return self.head["classifier"](x)


REFERENCES = [
    # The size it was made for, since the paper's dense layers take 6x6 maps.
    Reference("alexnet", "torch", TwoColumns, size=227),
    Reference("alexnet_owt", "torchvision", torchvision.models.alexnet, size=96, training=True),
]
