"""MobileNet: timm's at full width (in training mode too), its builder for the others, and Keras's padding."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import timm
from references.reference import Reference

WIDTHS = {"mobilenet_v1": 1.0, "mobilenet_v1_075": 0.75, "mobilenet_v1_050": 0.5, "mobilenet_v1_025": 0.25}


def narrow(width: float) -> Any:
    """Return timm's network with all maps but the fixed ones scaled."""
    return timm.models.efficientnet._gen_mobilenet_v1("mobilenetv1_100", width)


REFERENCES = [
    Reference("mobilenet_v1", "timm", partial(timm.create_model, "mobilenetv1_100"), training=True),
    *(Reference(name, "timm", partial(narrow, width)) for name, width in WIDTHS.items() if width < 1),
    Reference(
        "mobilenet_v1_025",
        "keras",
        partial(
            keras.applications.MobileNet,
            input_shape=(64, 64, 3),
            alpha=0.25,
            weights=None,
            classifier_activation=None,
        ),
        fields={"padding": "SAME", "epsilon": 1e-3},
    ),
]
