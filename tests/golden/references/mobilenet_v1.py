"""MobileNet: timm's at full width (in training mode too), its builder for the others, and Keras's padding."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import timm
from references.reference import Reference
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn

WIDTHS = {"mobilenet_v1": 1.0, "mobilenet_v1_075": 0.75, "mobilenet_v1_050": 0.5, "mobilenet_v1_025": 0.25}


def narrow(width: float) -> Any:
    """Return timm's network with all maps but the fixed ones scaled."""
    return timm.models.efficientnet._gen_mobilenet_v1("mobilenetv1_100", width)


# Both strides; maps and stride of each pair of convolutions.
SHORT = ((64, 1), (128, 2), (128, 1))


def short() -> Any:
    """Return timm's network with the pairs of `SHORT`."""
    return timm.models.EfficientNet(
        decode_arch_def([["dsa_r1_k3_s1_c64"], ["dsa_r2_k3_s2_c128"]]),
        num_features=0,
        stem_size=32,
        act_layer=nn.ReLU6,
    )


REFERENCES = [
    Reference(
        "mobilenet_v1",
        "timm",
        short,
        size=32,
        training=True,
        fields={"rows": SHORT, "output_stride": 4},
        short=True,
    ),
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
