"""ConvNeXt: torchvision's, and one of timm's and Keras's for their names."""

from __future__ import annotations

from functools import partial

import keras
import timm
import torchvision
from references.reference import Reference

REFERENCES = [
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
