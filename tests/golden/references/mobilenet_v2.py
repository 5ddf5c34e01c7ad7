"""MobileNetV2: torchvision's, and Keras's for its padding."""

from __future__ import annotations

from functools import partial

import keras
import torchvision
from references.reference import Reference

# Expansions, strides and shortcuts of every kind, in three blocks.
SHORT = ((1, 16, 1, 1), (6, 24, 2, 2))

REFERENCES = [
    Reference(
        "mobilenet_v2",
        "torchvision",
        partial(torchvision.models.MobileNetV2, inverted_residual_setting=SHORT),
        size=32,
        training=True,
        fields={"rows": SHORT, "output_stride": 4},
        short=True,
    ),
    Reference("mobilenet_v2", "torchvision", torchvision.models.mobilenet_v2, training=True),
    Reference(
        "mobilenet_v2",
        "keras",
        partial(keras.applications.MobileNetV2, input_shape=(64, 64, 3), weights=None, classifier_activation=None),
        fields={"padding": "SAME", "epsilon": 1e-3},
    ),
]
