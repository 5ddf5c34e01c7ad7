"""NASNet: Keras's, and timm's of the large one, whose max pools ignore what lies around the maps."""

from __future__ import annotations

from functools import partial

import keras
import timm
from references.reference import Reference

# Odd, so that the sizes of the maps are sometimes odd and sometimes even: 35, 18, 9, 5, 3.
SIZE = 71
KERAS = {"input_shape": (SIZE, SIZE, 3), "weights": None, "classifier_activation": None}

REFERENCES = [
    Reference("nasnet_mobile", "keras", partial(keras.applications.NASNetMobile, **KERAS), size=SIZE, training=True),
    Reference("nasnet_large", "keras", partial(keras.applications.NASNetLarge, **KERAS), size=SIZE),
    Reference(
        "nasnet_large",
        "timm",
        partial(timm.create_model, "nasnetalarge"),
        size=SIZE,
        fields={"pool_padding": "SAME"},
    ),
]
