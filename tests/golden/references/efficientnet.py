"""EfficientNets: torchvision's (v2_l has the code of v2_m and more than 100 million parameters); timm's for b0, and for
Lite and v2_b0 to v2_b3 on odd image sizes too, where TensorFlow's padding is another; Keras's."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import timm
import torchvision
from references.reference import Reference
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig

TORCHVISION = (*(f"efficientnet_b{index}" for index in range(7)), "efficientnet_v2_s", "efficientnet_v2_m")
KERAS = {"weights": None, "classifier_activation": None, "input_shape": (64, 64, 3)}


def keras_b0() -> keras.Model:
    """Return Keras's B0 without its first layers, which normalise images."""
    model = keras.applications.EfficientNetB0(**KERAS)
    return keras.Model(model.get_layer("stem_conv_pad").input, model.output)


# Fused or not, expansion, kernel, stride, maps, layers.
# The first block of each has a shortcut, for the stem is as wide.
SHORT_V1 = ((False, 1, 3, 1, 32, 1), (False, 6, 5, 2, 24, 1))
SHORT_V2 = ((True, 1, 3, 1, 24, 1), (True, 4, 3, 2, 32, 1), (False, 4, 3, 1, 32, 1))


def short(rows: tuple[tuple[bool, int, int, int, int, int], ...], inputs: int, **fields: Any) -> nn.Module:
    """Return torchvision's network with these rows behind a stem of ``inputs`` maps."""
    settings: list[MBConvConfig | FusedMBConvConfig] = []
    for fused, expansion, kernel, stride, outputs, layers in rows:
        kind = FusedMBConvConfig if fused else MBConvConfig
        settings.append(kind(expansion, kernel, stride, inputs, outputs, layers))
        inputs = outputs
    return torchvision.models.EfficientNet(settings, dropout=0.0, last_channel=64, **fields)


def short_lite() -> nn.Module:
    """Return timm's Lite with the rows of `SHORT_V1`."""
    return timm.models.EfficientNet(
        decode_arch_def([["ds_r1_k3_s1_e1_c32"], ["ir_r1_k5_s2_e6_c24"]]),
        num_features=64,
        stem_size=32,
        fix_stem=True,
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        pad_type="same",
    )


SHORT = {"size": 32, "training": True, "short": True}
REFERENCES = [
    Reference(
        "efficientnet_b0",
        "torchvision",
        partial(short, SHORT_V1, 32),
        fields={"rows": SHORT_V1, "last_features": 64, "output_stride": 4},
        **SHORT,
    ),
    Reference(
        "efficientnet_v2_s",
        "torchvision",
        partial(short, SHORT_V2, 24, norm_layer=partial(nn.BatchNorm2d, eps=1e-3)),
        fields={"rows": SHORT_V2, "last_features": 64, "output_stride": 4},
        **SHORT,
    ),
    # Odd, where TensorFlow's padding is another.
    Reference(
        "efficientnet_lite0",
        "timm",
        short_lite,
        fields={"rows": SHORT_V1, "last_features": 64, "output_stride": 4},
        **SHORT | {"size": 33},
    ),
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
