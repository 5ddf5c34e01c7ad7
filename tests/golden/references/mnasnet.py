"""MnasNet: torchvision's."""

from __future__ import annotations

from functools import partial

import torchvision
from references.reference import Reference

REFERENCES = [
    Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "mnasnet0_5")
    for name in ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3")
]
