"""FCN, DeepLabv3 and LR-ASPP: torchvision's, with their auxiliary heads."""

from __future__ import annotations

from functools import partial

import torchvision
from references.reference import Reference

build = partial(torchvision.models.get_model, weights_backbone=None, num_classes=21)

REFERENCES = [
    Reference("fcn_resnet50", "torchvision", partial(build, "fcn_resnet50", aux_loss=True), training=True),
    Reference("fcn_resnet101", "torchvision", partial(build, "fcn_resnet101", aux_loss=True)),
    # Wide enough that convolutions of rate 12 read more than padding besides their middle.
    Reference("deeplabv3_resnet50", "torchvision", partial(build, "deeplabv3_resnet50", aux_loss=True), size=136),
    Reference("deeplabv3_resnet101", "torchvision", partial(build, "deeplabv3_resnet101", aux_loss=True), size=136),
    Reference(
        "deeplabv3_mobilenet_v3_large",
        "torchvision",
        partial(build, "deeplabv3_mobilenet_v3_large", aux_loss=True),
        size=224,
        training=True,
        training_size=96,
    ),
    Reference(
        "lraspp_mobilenet_v3_large", "torchvision", partial(build, "lraspp_mobilenet_v3_large"), size=97, training=True
    ),
]
