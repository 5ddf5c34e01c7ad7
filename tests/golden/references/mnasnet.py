"""MnasNet: torchvision's."""

from __future__ import annotations

from functools import partial

import torchvision
from references.reference import Reference
from torch import nn

# Expansion, kernel, maps, repetitions, stride: both kernels, strides, and blocks with and without shortcut.
SHORT = ((1, 3, 16, 1, 1), (3, 5, 24, 2, 2))


def short() -> torchvision.models.MNASNet:
    """Return torchvision's network with the stacks of `SHORT`, at half the width as the variant."""
    model = torchvision.models.MNASNet(0.5)
    stack, momentum = torchvision.models.mnasnet._stack, torchvision.models.mnasnet._BN_MOMENTUM
    layers = model.layers
    model.layers = nn.Sequential(
        *layers[:8], stack(8, 16, 5, 2, 3, 2, momentum), nn.Conv2d(16, 1280, 1, bias=False), *layers[-2:]
    )
    return model


REFERENCES = [
    Reference(
        "mnasnet0_5",
        "torchvision",
        short,
        size=32,
        training=True,
        fields={"rows": SHORT, "output_stride": 4},
        short=True,
    ),
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "mnasnet0_5")
        for name in ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3")
    ),
]
