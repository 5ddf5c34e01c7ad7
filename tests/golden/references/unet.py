"""U-Net: a transcription of figure 1 of arXiv:1505.04597."""

from __future__ import annotations

from functools import partial

import torch
from references.reference import Reference
from torch import nn

WIDTHS = (64, 128, 256, 512, 1024)


def double_conv(inputs: int, outputs: int, padding: int) -> nn.ModuleDict:
    """Two 3x3 convolutions."""
    return nn.ModuleDict(
        {"conv1": nn.Conv2d(inputs, outputs, 3, 1, padding), "conv2": nn.Conv2d(outputs, outputs, 3, 1, padding)}
    )


def rectified(stage: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    """The two convolutions, each followed by a ReLU."""
    return stage["conv2"](stage["conv1"](x).relu()).relu()


class UNet(nn.Module):
    """Four times down by max pooling, four times up by 2x2 up-convolutions, with cropped copies in between."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        inputs = (1, *WIDTHS[:-1])
        self.encoder = nn.ModuleDict(
            {
                f"stage{i}": double_conv(a, b, padding)
                for i, (a, b) in enumerate(zip(inputs, WIDTHS, strict=True), start=1)
            }
        )
        self.decoder = nn.ModuleDict()
        for i, width in enumerate((512, 256, 128, 64), start=1):
            stage = double_conv(2 * width, width, padding)
            stage["up_conv"] = nn.ConvTranspose2d(2 * width, width, 2, 2)
            self.decoder[f"stage{i}"] = stage
        self.head = nn.ModuleDict({"classifier": nn.Conv2d(64, 2, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        copies = []
        for stage in self.encoder.values():
            x = rectified(stage, nn.functional.max_pool2d(copies[-1], 2) if copies else x)
            copies.append(x)
        for stage, copy in zip(self.decoder.values(), copies[-2::-1], strict=True):
            x = stage["up_conv"](x)
            border = (copy.shape[-1] - x.shape[-1]) // 2
            x = torch.cat([nn.functional.pad(copy, (-border,) * 4), x], dim=1)
            x = rectified(stage, x)
        return self.head["classifier"](x)


REFERENCES = [
    Reference("unet", "torch", partial(UNet, 0), size=188, channels=1),
    Reference("unet_same", "torch", partial(UNet, 1), size=32, channels=1, training=True),
]
