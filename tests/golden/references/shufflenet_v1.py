"""ShuffleNet, in no library: a transcription of arXiv:1707.01083v2, table 1 (3 groups) and figure 2."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn

GROUPS = 3


class Unit(nn.Module):
    """Figure 2b (stride 1) or 2c (stride 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, first_groups: int) -> None:
        super().__init__()
        self.stride, middle = stride, outputs // 4
        made = outputs - inputs if stride == 2 else outputs
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=first_groups, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False)
        self.norm3 = nn.BatchNorm2d(made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.channel_shuffle(self.norm1(self.conv1(x)).relu(), GROUPS)
        y = self.norm3(self.conv3(self.norm2(self.conv2(y))))
        if self.stride == 1:
            return (x + y).relu()
        return torch.cat((nn.functional.avg_pool2d(x, 3, 2, 1), y), 1).relu()


class ShuffleNet(nn.Module):
    """Conv1, MaxPool, Stage2 to Stage4 (4, 8 and 4 units), GlobalPool, FC."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 24, 3, 2, 1, bias=False), "norm1": nn.BatchNorm2d(24)})
        inputs = 24
        for stage, (repeat, maps) in enumerate(((4, 240), (8, 480), (4, 960)), start=1):
            outputs, units = int(maps * scale), {}
            for index in range(repeat):
                # The first pointwise convolution of Stage2 sees too few maps to split them.
                first_groups = 1 if stage == 1 and index == 0 else GROUPS
                units[f"block{index + 1}"] = Unit(inputs, outputs, 2 if index == 0 else 1, first_groups)
                inputs = outputs
            self.add_module(f"stage{stage}", nn.ModuleDict(units))
        self.head = nn.ModuleDict({"classifier": nn.Linear(inputs, 1000)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.stem["norm1"](self.stem["conv1"](x)).relu(), 3, 2, 1)
        for stage in (self.stage1, self.stage2, self.stage3):
            for unit in stage.values():
                x = unit(x)
        return self.head["classifier"](x.mean((2, 3)))


REFERENCES = [
    Reference(name, "torch", partial(ShuffleNet, scale), training=scale == 1)
    for name, scale in (("shufflenet_v1_x1_0", 1.0), ("shufflenet_v1_x1_5", 1.5), ("shufflenet_v1_x2_0", 2.0))
]
