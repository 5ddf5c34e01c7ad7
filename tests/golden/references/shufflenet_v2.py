"""ShuffleNetV2: torchvision's."""

from __future__ import annotations

from functools import partial

import torchvision
from references.reference import Reference

REFERENCES = [
    Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "shufflenet_v2_x0_5")
    for name in ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")
]
