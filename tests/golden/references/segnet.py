"""SegNet: a transcription of section 3 of arXiv:1511.00561 with PyTorch's own unpooling."""

from __future__ import annotations

import torch
from references.reference import Reference
from torch import nn

ENCODER = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
DECODER = ((512, 512, 512, 512), (512, 512, 512, 256), (256, 256, 256, 128), (128, 128, 64), (64, 64))


class Stage(nn.Module):
    """3x3 convolutions, each with batch normalisation and a ReLU."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for i in range(self.depth):
            self.add_module(f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], 3, 1, 1))
            self.add_module(f"norm{i + 1}", nn.BatchNorm2d(widths[i + 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(1, self.depth + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)).relu()
        return x


class SegNet(nn.Module):
    """Five stages down, remembering where each maximum was, and five up; the last convolution gives 11 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({f"stage{i}": Stage(widths) for i, widths in enumerate(ENCODER, start=1)})
        self.decoder = nn.ModuleDict({f"stage{i}": Stage(widths) for i, widths in enumerate(DECODER, start=1)})
        self.head = nn.ModuleDict({"classifier": nn.Conv2d(64, 11, 3, 1, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places, sizes = [], []
        for stage in self.encoder.values():
            x = stage(x)
            sizes.append(x.shape[-2:])
            x, place = nn.functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            places.append(place)
        for stage in self.decoder.values():
            x = stage(self.unpool(x, places.pop(), sizes.pop()))
        return self.head["classifier"](x)

    @staticmethod
    def unpool(x: torch.Tensor, places: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Put values where the maxima were."""
        maps = torch.zeros(*x.shape[:2], size[0] * size[1], dtype=x.dtype)
        return maps.scatter(2, places.flatten(2), x.flatten(2)).unflatten(2, size)


# 40 -> 20 -> 10 -> 5 -> 3 -> 2: one even and one odd map lose a part of their last windows.
REFERENCES = [Reference("segnet", "torch", SegNet, size=40, training=True)]
