"""Inception v3: torchvision's, timm's and Keras's."""

from __future__ import annotations

from functools import partial

import keras
import timm
import torchvision
from references.reference import Reference

REFERENCES = [
    # The auxiliary classifier takes no smaller images.
    Reference(
        "inception_v3",
        "torchvision",
        partial(torchvision.models.inception_v3, init_weights=False),
        size=107,
        training=True,
        training_size=299,
        batch=2,
    ),
    Reference(
        "inception_v3",
        "timm",
        partial(timm.create_model, "inception_v3"),
        size=107,
        fields={"aux_classifiers": False},
    ),
    Reference(
        "inception_v3",
        "keras",
        partial(keras.applications.InceptionV3, weights=None, input_shape=(107, 107, 3), classifier_activation=None),
        size=107,
        fields={"aux_classifiers": False, "norm_scale": False, "count_include_pad": False},
    ),
]
