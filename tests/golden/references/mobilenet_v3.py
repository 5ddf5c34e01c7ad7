"""MobileNetV3: torchvision's, and Keras's for its padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import torchvision
from references.reference import Reference
from torchvision.models.mobilenetv3 import InvertedResidualConfig

# Kernel, expanded width, output, attention, hard-swish (or ReLU), stride; the stem has 16 maps.
SHORT = ((3, 16, 16, True, False, 2), (5, 72, 16, False, True, 1))


def short_blocks(rows: Sequence[tuple[int, int, int, bool, bool, int]], inputs: int = 16) -> list[Any]:
    """Return torchvision's settings of blocks."""
    settings = []
    for kernel, expanded, outputs, attention, swish, stride in rows:
        activation = "HS" if swish else "RE"
        settings.append(
            InvertedResidualConfig(inputs, kernel, expanded, outputs, attention, activation, stride, 1, width_mult=1.0)
        )
        inputs = outputs
    return settings


REFERENCES = [
    Reference(
        "mobilenet_v3_small",
        "torchvision",
        partial(torchvision.models.MobileNetV3, short_blocks(SHORT), last_channel=64),
        size=32,
        training=True,
        fields={"rows": SHORT, "hidden_features": 64, "output_stride": 4},
        short=True,
    ),
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
