"""Inception v4 (timm) and Inception-ResNet v2 (timm and Keras)."""

from __future__ import annotations

from functools import partial

import keras
import timm
from references.reference import Reference

REFERENCES = [
    # No training mode: float32 alone changes gradient norms by 4 to 8 %, at larger images too.
    Reference("inception_v4", "timm", partial(timm.create_model, "inception_v4"), size=107),
    Reference(
        "inception_resnet_v2", "timm", partial(timm.create_model, "inception_resnet_v2"), size=107, training=True
    ),
    Reference(
        "inception_resnet_v2",
        "keras",
        partial(
            keras.applications.InceptionResNetV2, weights=None, input_shape=(107, 107, 3), classifier_activation=None
        ),
        size=107,
        fields={"norm_scale": False},
    ),
]
