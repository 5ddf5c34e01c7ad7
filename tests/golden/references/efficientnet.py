"""EfficientNets: torchvision's (v2_l has the code of v2_m and more than 100 million parameters); timm's for b0, and for
Lite and v2_b0 to v2_b3 on odd image sizes too, where TensorFlow's padding is another; Keras's."""

from __future__ import annotations

from functools import partial

import keras
import timm
import torchvision
from references.reference import Reference

TORCHVISION = (*(f"efficientnet_b{index}" for index in range(7)), "efficientnet_v2_s", "efficientnet_v2_m")
KERAS = {"weights": None, "classifier_activation": None, "input_shape": (64, 64, 3)}


def keras_b0() -> keras.Model:
    """Return Keras's B0 without its first layers, which normalise images."""
    model = keras.applications.EfficientNetB0(**KERAS)
    return keras.Model(model.get_layer("stem_conv_pad").input, model.output)


REFERENCES = [
    *(
        Reference(name, "torchvision", partial(torchvision.models.get_model, name), training=name == "efficientnet_b0")
        for name in TORCHVISION
    ),
    # The window between weights that tell images apart and those that explode is narrow at this depth.
    Reference("efficientnet_b7", "torchvision", torchvision.models.efficientnet_b7, gains=(1.65,)),
    Reference("efficientnet_b0", "timm", partial(timm.create_model, "efficientnet_b0")),
    Reference("efficientnet_b0", "keras", keras_b0, fields={"padding": "SAME", "epsilon": 1e-3}),
    *(
        Reference(
            f"efficientnet_lite{index}",
            "timm",
            partial(timm.create_model, f"tf_efficientnet_lite{index}"),
            size=65,
            training=index == 0,
        )
        for index in range(5)
    ),
    *(
        Reference(
            f"efficientnet_v2_b{index}", "timm", partial(timm.create_model, f"tf_efficientnetv2_b{index}"), size=65
        )
        for index in range(4)
    ),
    *(
        Reference(
            f"efficientnet_v2_b{index}",
            "keras",
            partial(
                getattr(keras.applications, f"EfficientNetV2B{index}"),
                include_preprocessing=False,
                **KERAS,
            ),
        )
        for index in (0, 3)
    ),
    Reference(
        "efficientnet_v2_s",
        "keras",
        partial(keras.applications.EfficientNetV2S, include_preprocessing=False, **KERAS),
        fields={"padding": "SAME"},
    ),
]
