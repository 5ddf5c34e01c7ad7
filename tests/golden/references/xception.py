"""Xception: timm's and Keras's."""

from __future__ import annotations

from functools import partial

import keras
import timm
from references.reference import Reference

REFERENCES = [
    Reference("xception", "timm", partial(timm.create_model, "legacy_xception"), training=True),
    Reference(
        "xception",
        "keras",
        partial(keras.applications.Xception, weights=None, input_shape=(71, 71, 3), classifier_activation=None),
        size=71,
        fields={"norm_epsilon": 1e-3, "pool_padding": "SAME"},
    ),
]
