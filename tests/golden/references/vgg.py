"""VGG: torchvision's and timm's convolutions and Keras's, all with narrow dense layers.

Of the 133 to 144 million parameters, 124 are in the dense layers; the same code with 64 units is as good a witness.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision
from references.reference import Reference
from torch import nn

WIDTH = 64
FIELDS = {"dense_features": [WIDTH, WIDTH]}
NAMES = tuple(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn"))


def narrow(name: str) -> nn.Module:
    """Return torchvision's network with its dense layers replaced by narrow ones."""
    model = torchvision.models.get_model(name)
    for place, (inputs, outputs) in {0: (25088, WIDTH), 3: (WIDTH, WIDTH), 6: (WIDTH, 1000)}.items():
        model.classifier[place] = nn.Linear(inputs, outputs)
    return model


def narrow_timm(name: str) -> nn.Module:
    """Return timm's network with narrow dense layers."""
    import timm

    model = timm.create_model(name)
    model.pre_logits.fc1 = nn.Conv2d(512, WIDTH, 7)
    model.pre_logits.fc2 = nn.Conv2d(WIDTH, WIDTH, 1)
    model.head.fc = nn.Linear(WIDTH, 1000)
    return model


def narrow_keras(depth: int, size: int) -> Any:
    """Return Keras's convolutions under narrow dense layers with the names of its own."""
    import keras

    base = getattr(keras.applications, f"VGG{depth}")(weights=None, include_top=False, input_shape=(size, size, 3))
    x = keras.layers.Flatten(name="flatten")(base.output)
    x = keras.layers.Dense(WIDTH, activation="relu", name="fc1")(x)
    x = keras.layers.Dense(WIDTH, activation="relu", name="fc2")(x)
    return keras.Model(base.input, keras.layers.Dense(1000, name="predictions")(x))


REFERENCES = [
    Reference(name, "torchvision", partial(narrow, name), fields=FIELDS, training=name == "vgg11_bn") for name in NAMES
]
REFERENCES += [Reference("vgg11_bn", "timm", partial(narrow_timm, "vgg11_bn"), fields=FIELDS)]
REFERENCES += [
    Reference(f"vgg{depth}", "keras", partial(narrow_keras, depth, 64), fields=FIELDS | {"pool_size": 2})
    for depth in (16, 19)
]
