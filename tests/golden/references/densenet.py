"""DenseNet: of torchvision, timm and Keras for ImageNet, a transcription of arXiv:1608.06993, section 3, for CIFAR."""

from __future__ import annotations

from functools import partial

import keras
import timm
import torch
import torchvision
from references.reference import Reference
from torch import nn


class CifarLayer(nn.Module):
    """BN, ReLU, convolution 3x3; in DenseNet-B, BN, ReLU and a 1x1 convolution to 4 k maps come before."""

    def __init__(self, inputs: int, k: int, bottleneck: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, 4 * k, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * k)
            self.conv2 = nn.Conv2d(4 * k, k, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, k, 3, padding=1, bias=False)
        self.bottleneck = bottleneck

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.norm1(x).relu())
        if self.bottleneck:
            y = self.conv2(self.norm2(y).relu())
        return torch.cat([x, y], 1)


class CifarDenseNet(nn.Module):
    """Three dense blocks; between them BN, ReLU, a 1x1 convolution (to half the maps in DenseNet-C), 2x2 averages."""

    def __init__(self, depth: int, k: int, bc: bool) -> None:
        super().__init__()
        maps = 2 * k if bc else 16
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, maps, 3, padding=1, bias=False)})
        for stage in (1, 2, 3):
            parts = {}
            if stage > 1:
                halved = maps // 2 if bc else maps
                parts["transition"] = nn.ModuleDict(
                    {"norm1": nn.BatchNorm2d(maps), "conv1": nn.Conv2d(maps, halved, 1, bias=False)}
                )
                maps = halved
            for index in range(1, (depth - 4) // (6 if bc else 3) + 1):
                parts[f"block{index}"] = CifarLayer(maps, k, bc)
                maps += k
            self.add_module(f"stage{stage}", nn.ModuleDict(parts))
        self.head = nn.ModuleDict({"norm1": nn.BatchNorm2d(maps), "classifier": nn.Linear(maps, 10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv1"](x)
        for stage in (self.stage1, self.stage2, self.stage3):
            for name, part in stage.items():
                if name == "transition":
                    x = nn.functional.avg_pool2d(part["conv1"](part["norm1"](x).relu()), 2)
                else:
                    x = part(x)
        return self.head["classifier"](self.head["norm1"](x).relu().mean((2, 3)))


REFERENCES = [
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name))
        for name in ("densenet121", "densenet161", "densenet169", "densenet201")
    ),
    Reference("densenet121", "timm", partial(timm.create_model, "densenet121")),
    Reference(
        "densenet121",
        "keras",
        lambda: keras.applications.DenseNet121(weights=None, input_shape=(64, 64, 3), classifier_activation=None),
    ),
    Reference("densenet_40_12", "torch", partial(CifarDenseNet, 40, 12, False), size=16),
    Reference(
        "densenet_bc_100_12",
        "torch",
        partial(CifarDenseNet, 10, 12, True),
        size=16,
        training=True,
        fields={"stage_sizes": (1, 1, 1)},
        short=True,
    ),
    # Shallow for the gradients; densenet_bc_190_40 has the full depth.
    Reference(
        "densenet_bc_100_12",
        "torch",
        partial(CifarDenseNet, 22, 12, True),
        size=16,
        training=True,
        fields={"stage_sizes": (3, 3, 3)},
    ),
    Reference("densenet_bc_190_40", "torch", partial(CifarDenseNet, 190, 40, True), size=16),
]
