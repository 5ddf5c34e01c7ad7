"""ResNet: torchvision's for ImageNet, a transcription of section 4.2 of arXiv:1512.03385 for CIFAR."""

from __future__ import annotations

from functools import partial

import torch
import torchvision
from references.reference import Reference
from torch import nn

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; option A shortcuts subsample and pad with zero channels on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        half = self.missing // 2
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return (y + shortcut).relu()


class CifarResNet(nn.Module):
    """A 3x3 convolution, 3 stages of n blocks with 16, 32 and 64 maps, global pooling, a dense layer."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 16, 3, 1, 1, bias=False), "norm1": nn.BatchNorm2d(16)})
        for stage, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = {"block1": CifarBlock(inputs, outputs, 1 if stage == 1 else 2)}
            blocks |= {f"block{index}": CifarBlock(outputs, outputs, 1) for index in range(2, n + 1)}
            self.add_module(f"stage{stage}", nn.ModuleDict(blocks))
        self.head = nn.ModuleDict({"classifier": nn.Linear(64, 10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["norm1"](self.stem["conv1"](x)).relu()
        for stage in (self.stage1, self.stage2, self.stage3):
            for block in stage.values():
                x = block(x)
        return self.head["classifier"](x.mean((2, 3)))


REFERENCES = [
    Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "resnet18")
    for name in TORCHVISION
] + [
    Reference(f"resnet{6 * n + 2}", "torch", partial(CifarResNet, n), size=16, training=n == 3)
    for n in (3, 5, 7, 9, 18)
]
