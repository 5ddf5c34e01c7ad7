"""ConvNeXt: torchvision's, and one of timm's and Keras's for their names."""

from __future__ import annotations

from functools import partial

import keras
import timm
import torchvision
from references.reference import Reference
from torchvision.models.convnext import CNBlockConfig

REFERENCES = [
    Reference(
        "convnext_tiny",
        "torchvision",
        lambda: torchvision.models.ConvNeXt([CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 1)]),
        size=32,
        training=True,
        fields={"stage_sizes": (1, 1), "features": (24, 32), "output_stride": 8},
        short=True,
    ),
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "convnext_tiny")
        for name in ("convnext_tiny", "convnext_small", "convnext_base")
    ),
    Reference("convnext_tiny", "timm", partial(timm.create_model, "convnext_tiny")),
    Reference(
        "convnext_tiny",
        "keras",
        partial(
            keras.applications.ConvNeXtTiny,
            include_preprocessing=False,
            input_shape=(64, 64, 3),
            weights=None,
            classifier_activation=None,
        ),
    ),
]
