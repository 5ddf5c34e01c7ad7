"""Network in network: a transcription of the authors' two networks for Caffe."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn

# Widths of each block; kernel, stride and padding of its first convolution; the pool before it.
IMAGENET = (
    ((96, 96, 96), (11, 4, 0), None),
    ((256, 256, 256), (5, 1, 2), "max"),
    ((384, 384, 384), (3, 1, 1), "max"),
    ((1024, 1024, 1000), (3, 1, 1), "max"),
)
CIFAR10 = (
    ((192, 160, 96), (5, 1, 2), None),
    ((192, 192, 192), (5, 1, 2), "max"),
    ((192, 192, 10), (3, 1, 1), "average"),
)


class NiN(nn.Module):
    """Blocks of a convolution and two 1x1 convolutions, all rectified; the last one is averaged over space."""

    def __init__(self, blocks: tuple) -> None:
        super().__init__()
        self.pools = [pool for _, _, pool in blocks]
        inputs = 3
        for number, (widths, (kernel, stride, padding), _) in enumerate(blocks, start=1):
            layers = {}
            for index, width in enumerate(widths, start=1):
                geometry = (kernel, stride, padding) if index == 1 else (1, 1, 0)
                layers[f"conv{index}"] = nn.Conv2d(inputs, width, *geometry)
                inputs = width
            if number == len(blocks):
                self.head = nn.ModuleDict({"classifier": layers.pop(f"conv{len(widths)}")})
            self.add_module(f"stage{number}", nn.ModuleDict(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, pool in enumerate(self.pools, start=1):
            if pool == "max":
                x = nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)
            elif pool == "average":
                x = nn.functional.avg_pool2d(x, 3, 2, ceil_mode=True)
            for conv in self.get_submodule(f"stage{number}").values():
                x = conv(x).relu()
        return self.head["classifier"](x).relu().mean((2, 3))


REFERENCES = [
    Reference("nin_imagenet", "torch", partial(NiN, IMAGENET), size=96),
    Reference("nin_cifar10", "torch", partial(NiN, CIFAR10), size=32, training=True),
]
