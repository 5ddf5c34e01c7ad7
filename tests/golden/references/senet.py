"""SENet: timm's ports of the authors' Caffe networks."""

from __future__ import annotations

from functools import partial

import timm
from references.reference import Reference

# SENet-154 with fewer blocks a stage: a deep stem, 3x3 projections and wider blocks, without 115 million weights.
SHALLOW = (1, 2, 1, 1)
REFERENCES = [
    *(
        Reference(name, "timm", partial(timm.create_model, f"legacy_{name}"))
        for name in ("seresnet50", "seresnext50_32x4d")
    ),
    Reference(
        "senet154",
        "timm",
        partial(timm.create_model, "legacy_senet154", layers=SHALLOW, drop_rate=0.0),
        training=True,
        fields={"stage_sizes": SHALLOW},
    ),
]
