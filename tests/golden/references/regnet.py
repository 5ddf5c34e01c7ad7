"""RegNet: torchvision's, and one of timm's for its names."""

from __future__ import annotations

from functools import partial

import timm
import torchvision
from references.reference import Reference
from torchvision.models.regnet import BlockParams

# Those of at most 100 million parameters.
SIZES = {"x": "400mf 800mf 1_6gf 3_2gf 8gf 16gf", "y": "400mf 800mf 1_6gf 3_2gf 8gf 16gf"}
NAMES = [f"regnet_{kind}_{size}" for kind, sizes in SIZES.items() for size in sizes.split()]

# Parameters of the design space that give stages of 1 and 2 blocks.
SHORT = {"depth": 3, "w_0": 16, "w_a": 12.0, "w_m": 2.0, "group_width": 8}


def short() -> torchvision.models.RegNet:
    """Return torchvision's network with attention and the blocks of `SHORT`."""
    return torchvision.models.RegNet(BlockParams.from_init_params(**SHORT, se_ratio=0.25))


REFERENCES = [
    Reference(
        "regnet_y_800mf",
        "torchvision",
        short,
        size=32,
        training=True,
        fields=SHORT | {"output_stride": 8},
        short=True,
    ),
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "regnet_y_800mf")
        for name in NAMES
    ),
    Reference("regnet_y_400mf", "timm", partial(timm.create_model, "regnety_004")),
]
