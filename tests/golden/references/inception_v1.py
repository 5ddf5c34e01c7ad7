"""GoogLeNet: torchvision's, and a transcription of table 1 of arXiv:1409.4842 for the paper's and the naive one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torchvision
from references.reference import Reference
from torch import nn
from torch.nn import functional as F
from torchvision.models.googlenet import Inception as Module
from torchvision.models.googlenet import InceptionAux

# Columns of table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj.
ROWS = {
    "2.1": (64, 96, 128, 16, 32, 32),
    "2.2": (128, 128, 192, 32, 96, 64),
    "3.1": (192, 96, 208, 16, 48, 64),
    "3.2": (160, 112, 224, 24, 64, 64),
    "3.3": (128, 128, 256, 24, 64, 64),
    "3.4": (112, 144, 288, 32, 64, 64),
    "3.5": (256, 160, 320, 32, 128, 128),
    "4.1": (256, 160, 320, 32, 128, 128),
    "4.2": (384, 192, 384, 48, 128, 128),
}


def chain(*convs: nn.Conv2d) -> nn.ModuleDict:
    """Name convolutions as ours are."""
    return nn.ModuleDict({f"conv{index}": conv for index, conv in enumerate(convs, start=1)})


def run(convs: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    """Apply rectified convolutions."""
    for conv in convs.values():
        x = conv(x).relu()
    return x


class Inception(nn.Module):
    """Figure 2b, or 2a if naive."""

    def __init__(self, inputs: int, row: tuple[int, ...], naive: bool) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, proj = row
        self.branch1 = chain(nn.Conv2d(inputs, one, 1))
        if naive:
            self.branch2 = chain(nn.Conv2d(inputs, three, 3, padding=1))
            self.branch3 = chain(nn.Conv2d(inputs, five, 5, padding=2))
            self.branch4 = chain()
        else:
            self.branch2 = chain(nn.Conv2d(inputs, reduce3, 1), nn.Conv2d(reduce3, three, 3, padding=1))
            self.branch3 = chain(nn.Conv2d(inputs, reduce5, 1), nn.Conv2d(reduce5, five, 5, padding=2))
            self.branch4 = chain(nn.Conv2d(inputs, proj, 1))
        self.outputs = one + three + five + (inputs if naive else proj)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.max_pool2d(x, 3, 1, padding=1)
        branches = (self.branch1, x), (self.branch2, x), (self.branch3, x), (self.branch4, pooled)
        return torch.cat([run(branch, value) for branch, value in branches], 1)


class InceptionV1(nn.Module):
    """Table 1, with figure 3's normalisation layers and auxiliary classifiers."""

    def __init__(self, naive: bool, rows: Mapping[str, tuple[int, ...]] = ROWS, aux: tuple[int, int] = (0, 3)) -> None:
        super().__init__()
        self.aux_after = aux
        self.stem = chain(nn.Conv2d(3, 64, 7, stride=2, padding=3))
        self.stage1 = chain(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 192, 3, padding=1))
        self.stage2, self.stage3, self.stage4 = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        channels = 192
        for place, row in rows.items():
            stage, block = place.split(".")
            module = Inception(channels, row, naive)
            getattr(self, f"stage{stage}")[f"block{block}"] = module
            channels = module.outputs
            if stage == "3" and not naive:
                for number, position in enumerate(aux, start=1):
                    if int(block) == position + 1:
                        self.add_module(f"aux{number}", self._aux(channels))
        self.head = nn.ModuleDict({"classifier": nn.Linear(channels, 1000)})
        self.with_aux = not naive

    def _aux(self, channels: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "conv1": nn.Conv2d(channels, 128, 1),
                "dense1": nn.Linear(4 * 4 * 128, 1024),
                "classifier": nn.Linear(1024, 1000),
            }
        )

    def _aux_logits(self, head: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
        x = head["conv1"](F.avg_pool2d(x, 5, 3)).relu().flatten(1)
        return head["classifier"](head["dense1"](x).relu())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        pool = partial(F.max_pool2d, kernel_size=3, stride=2, ceil_mode=True)
        normalise = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        x = normalise(pool(run(self.stem, x)))
        x = pool(normalise(run(self.stage1, x)))
        for block in self.stage2.values():
            x = block(x)
        x = pool(x)
        maps = []
        for block in self.stage3.values():
            x = block(x)
            maps.append(x)
        x = pool(x)
        for block in self.stage4.values():
            x = block(x)
        outputs = [self.head["classifier"](x.mean((2, 3)))]
        if self.training and self.with_aux:
            outputs += [
                self._aux_logits(head, maps[at])
                for head, at in zip((self.aux1, self.aux2), self.aux_after, strict=True)
            ]
        return outputs


# One module in each stage; both auxiliary classifiers see that of stage 3.
SHORT = {
    "2.1": (48, 24, 48, 8, 16, 16),
    "3.1": (32, 16, 48, 8, 24, 24),
    "4.1": (64, 32, 96, 16, 48, 48),
}
SHORT_FIELDS = {
    "rows": [[row for place, row in SHORT.items() if place[0] == stage] for stage in "234"],
    "aux_classifiers": True,
}


def short_googlenet() -> nn.Module:
    """Return torchvision's network with the modules of `SHORT`."""
    model = torchvision.models.googlenet(init_weights=False)
    for letters, channels, row in zip(("3a", "4a", "5a"), (192, 128, 128), SHORT.values(), strict=True):
        setattr(model, f"inception{letters}", Module(channels, *row))
    for letters in ("3b", "4b", "4c", "4d", "4e", "5b"):
        setattr(model, f"inception{letters}", nn.Identity())
    model.aux1, model.aux2 = InceptionAux(128, 1000), InceptionAux(128, 1000)
    model.fc = nn.Linear(256, 1000)
    return model


REFERENCES = [
    Reference("googlenet", "torchvision", short_googlenet, training=True, fields=SHORT_FIELDS, short=True),
    Reference(
        "inception_v1",
        "torch",
        partial(InceptionV1, naive=False, rows=SHORT, aux=(0, 0)),
        training=True,
        training_size=224,
        batch=2,
        fields=SHORT_FIELDS,
        short=True,
    ),
    Reference(
        "googlenet",
        "torchvision",
        partial(torchvision.models.googlenet, init_weights=False),
        training=True,
        fields={"aux_classifiers": True},
    ),
    # The auxiliary classifiers are defined at the published size only.
    Reference(
        "inception_v1",
        "torch",
        partial(InceptionV1, naive=False),
        training=True,
        training_size=224,
        batch=2,
        fields={"aux_classifiers": True},
    ),
    Reference("inception_v1_naive", "torch", partial(InceptionV1, naive=True)),
]
