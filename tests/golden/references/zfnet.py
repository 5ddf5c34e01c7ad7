"""ZFNet: a transcription of figure 3 of arXiv:1311.2901."""

from __future__ import annotations

import torch
from references.reference import Reference
from torch import nn


class ZFNet(nn.Module):
    """Maps of 110, 55, 26, 13 and 6 pixels from images of 224; response normalisation after the first two pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"conv1": nn.Conv2d(3, 96, 7, 2, 1)})
        self.stage2 = nn.ModuleDict({"conv1": nn.Conv2d(96, 256, 5, 2)})
        widths = (256, 384, 384, 256)
        self.stage3 = nn.ModuleDict(
            {f"conv{i}": nn.Conv2d(widths[i - 1], widths[i], 3, padding=1) for i in range(1, len(widths))}
        )
        self.head = nn.ModuleDict(
            {
                "dense1": nn.Linear(6 * 6 * 256, 4096),
                "dense2": nn.Linear(4096, 4096),
                "classifier": nn.Linear(4096, 1000),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = []
        for stage in (self.stage1, self.stage2, self.stage3):
            for conv in stage.values():
                x = conv(x).relu()
                sizes.append(x.shape[-1])
            x = nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)
            sizes.append(x.shape[-1])
            if stage is not self.stage3:
                x = nn.functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
        assert sizes == [110, 55, 26, 13, 13, 13, 13, 6]
        x = self.head["dense2"](self.head["dense1"](x.flatten(1)).relu()).relu()
        return self.head["classifier"](x)


REFERENCES = [Reference("zfnet", "torch", ZFNet, size=224, training=True, batch=2)]
