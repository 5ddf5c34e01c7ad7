"""ResNet v2: timm's for ImageNet, a transcription of arXiv:1603.05027 for CIFAR."""

from __future__ import annotations

from functools import partial

import timm
import torch
from references.reference import Reference
from torch import nn


class CifarBlock(nn.Module):
    """Figure 4 (e) as a bottleneck, stride in the first 1x1; a new shape is projected from the activated input."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * middle
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, middle, 1, stride, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.proj_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.norm1(x).relu()
        y = self.conv1(activated)
        y = self.conv2(self.norm2(y).relu())
        y = self.conv3(self.norm3(y).relu())
        return y + (x if self.proj_conv is None else self.proj_conv(activated))


class CifarResNet(nn.Module):
    """A 3x3 convolution, 3 stages of n bottlenecks of 16, 32 and 64 maps, a last activation, pooling, a dense layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False)})
        inputs = 16
        for stage, middle in enumerate((16, 32, 64), start=1):
            blocks = {}
            for index in range(1, n + 1):
                blocks[f"block{index}"] = CifarBlock(inputs, middle, 2 if stage > 1 and index == 1 else 1)
                inputs = 4 * middle
            self.add_module(f"stage{stage}", nn.ModuleDict(blocks))
        self.head = nn.ModuleDict({"norm1": nn.BatchNorm2d(256), "classifier": nn.Linear(256, 10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv1"](x)
        for stage in (self.stage1, self.stage2, self.stage3):
            for block in stage.values():
                x = block(x)
        return self.head["classifier"](self.head["norm1"](x).relu().mean((2, 3)))


REFERENCES = [
    *(
        Reference(name, "timm", partial(timm.create_model, name))
        for name in ("resnetv2_50", "resnetv2_101", "resnetv2_152")
    ),
    # As resnet1001, with fewer blocks a stage.
    Reference("resnet164", "torch", partial(CifarResNet, 2), size=16, training=True, fields={"stage_sizes": (2, 2, 2)}),
]
