"""RegNet: torchvision's, and one of timm's for its names."""

from __future__ import annotations

from functools import partial

import timm
import torchvision
from references.reference import Reference

# Those of at most 100 million parameters.
SIZES = {"x": "400mf 800mf 1_6gf 3_2gf 8gf 16gf", "y": "400mf 800mf 1_6gf 3_2gf 8gf 16gf"}
NAMES = [f"regnet_{kind}_{size}" for kind, sizes in SIZES.items() for size in sizes.split()]

REFERENCES = [
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "regnet_y_800mf")
        for name in NAMES
    ),
    Reference("regnet_y_400mf", "timm", partial(timm.create_model, "regnety_004")),
]
