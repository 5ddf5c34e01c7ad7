"""MobileNetV3: torchvision's, and Keras's for its padding."""

from __future__ import annotations

from functools import partial

import keras
import torchvision
from references.reference import Reference

REFERENCES = [
    Reference("mobilenet_v3_large", "torchvision", torchvision.models.mobilenet_v3_large),
    Reference("mobilenet_v3_small", "torchvision", torchvision.models.mobilenet_v3_small, training=True),
    Reference(
        "mobilenet_v3_small",
        "keras",
        partial(
            keras.applications.MobileNetV3Small,
            input_shape=(64, 64, 3),
            weights=None,
            classifier_activation=None,
            include_preprocessing=False,
        ),
        fields={"padding": "SAME"},
    ),
]
