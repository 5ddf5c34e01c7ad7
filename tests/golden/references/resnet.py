"""ResNet: torchvision's and timm's for ImageNet; the papers' transcribed for CIFAR and plain networks."""

from __future__ import annotations

from functools import partial

import timm
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


class PlainBlock(nn.Module):
    """Two 3x3 convolutions without a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()


class ResNeXtBlock(nn.Module):
    """Figure 3 (c) of arXiv:1611.05431: 1x1, 3x3 in groups, 1x1; a new shape is projected."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        width = outputs // 4 * groups
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        if inputs != outputs:
            self.proj_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.proj_norm = nn.BatchNorm2d(outputs)
        self.project = inputs != outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        y = self.norm3(self.conv3(y))
        return (y + (self.proj_norm(self.proj_conv(x)) if self.project else x)).relu()


class StackedNet(nn.Module):
    """A stem, blocks in stages that halve the resolution, global pooling, a dense layer; modules called as ours are."""

    def __init__(self, block: type | partial, sizes: tuple[int, ...], widths: tuple[int, ...], small: bool) -> None:
        super().__init__()
        inputs = 64 if widths[0] >= 64 else 16
        size, stride = (3, 1) if small else (7, 2)
        stem = nn.Conv2d(3, inputs, size, stride, size // 2, bias=False)
        self.stem = nn.ModuleDict({"conv1": stem, "norm1": nn.BatchNorm2d(inputs)})
        self.small, self.stages = small, len(sizes)
        for stage, (blocks, width) in enumerate(zip(sizes, widths, strict=True), start=1):
            parts = {}
            for index in range(1, blocks + 1):
                parts[f"block{index}"] = block(inputs, width, 2 if stage > 1 and index == 1 else 1)
                inputs = width
            self.add_module(f"stage{stage}", nn.ModuleDict(parts))
        self.head = nn.ModuleDict({"classifier": nn.Linear(inputs, 10 if small else 1000)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["norm1"](self.stem["conv1"](x)).relu()
        if not self.small:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            for block in getattr(self, f"stage{stage}").values():
                x = block(x)
        return self.head["classifier"](x.mean((2, 3)))


# Name, block, blocks a stage, width of each stage's output. resnet1202 is resnet110 with more blocks.
TRANSCRIBED = (
    ("plain18", PlainBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    ("plain34", PlainBlock, (3, 4, 6, 3), (64, 128, 256, 512)),
    ("plain20", PlainBlock, (3, 3, 3), (16, 32, 64)),
    ("plain56", PlainBlock, (9, 9, 9), (16, 32, 64)),
    ("resnext29_8x64d", partial(ResNeXtBlock, groups=8), (3, 3, 3), (256, 512, 1024)),
    ("resnext29_16x64d", partial(ResNeXtBlock, groups=16), (3, 3, 3), (256, 512, 1024)),
)


REFERENCES = (
    [
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "resnet18")
        for name in TORCHVISION
    ]
    + [Reference("resnet18", "timm", partial(timm.create_model, "resnet18"))]
    + [
        # Three images: of four, a value of 4e-7 before one rectifier has the sign that rounding gives it.
        Reference(f"resnet{6 * n + 2}", "torch", partial(CifarResNet, n), size=16, training=n == 3, batch=3)
        for n in (3, 5, 7, 9, 18)
    ]
    + [
        Reference(
            name,
            "torch",
            partial(StackedNet, block, sizes, widths, len(sizes) == 3),
            size=16 if len(sizes) == 3 else 64,
        )
        for name, block, sizes, widths in TRANSCRIBED
    ]
)
