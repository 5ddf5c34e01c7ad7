"""SqueezeNet: torchvision's."""

from __future__ import annotations

from functools import partial

import torchvision
from references.reference import Reference

REFERENCES = [
    Reference(name, "torchvision", partial(torchvision.models.get_model, name), size=48, training=name.endswith("1"))
    for name in ("squeezenet1_0", "squeezenet1_1")
]
