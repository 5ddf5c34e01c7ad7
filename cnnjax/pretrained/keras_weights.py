"""What weights of Keras's applications expect of a network and of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cnnjax.models import create_model, model_info
from cnnjax.models.variant import IMAGENET_MEAN, IMAGENET_STD
from cnnjax.pretrained.weights import WeightsInfo, weights_as_published
from cnnjax.runs.images import ImageFormat

# Fields in which Keras's network of a family, or of a name, differs from the variant.
TENSORFLOW = {"padding": "SAME", "epsilon": 1e-3}
RESNET = {"strided_conv": 1, "conv_bias": True, "epsilon": 1.001e-5}
RESNET_V2 = {"strided_block": "last", "conv_bias": True, "pool_zeros": True, "epsilon": 1.001e-5}
FIELDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "efficientnet": TENSORFLOW,
        "inception_v3": {"aux_classifiers": False, "norm_scale": False, "count_include_pad": False},
        "inception_v4": {"norm_scale": False},
        "mobilenet_v1": TENSORFLOW,
        "mobilenet_v2": TENSORFLOW,
        "mobilenet_v3": {"padding": "SAME"},
        **{f"resnet{depth}": RESNET for depth in (50, 101, 152)},
        **{f"resnetv2_{depth}": RESNET_V2 for depth in (50, 101, 152)},
        "xception": {"norm_epsilon": 1e-3, "pool_padding": "SAME"},
    }
)

HALF = (0.5, 0.5, 0.5)
# Mean and standard deviation of pixels in [0, 1]: modes "tf", "torch" and "caffe" of Keras's preprocess_input.
MINUS_1_TO_1 = (HALF, HALF)
STANDARDISED = (IMAGENET_MEAN, IMAGENET_STD)
LESS_A_MEAN = ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,) * 3)
# What the larger EfficientNetV2 do to images themselves: x / 128 - 1.
FROM_128 = ((128 / 255,) * 3, (128 / 255,) * 3)
STATISTICS = MappingProxyType(
    {
        "convnext": STANDARDISED,
        "densenet": STANDARDISED,
        "efficientnet": STANDARDISED,
        "inception_v3": MINUS_1_TO_1,
        "inception_v4": MINUS_1_TO_1,
        "mobilenet_v1": MINUS_1_TO_1,
        "mobilenet_v2": MINUS_1_TO_1,
        "mobilenet_v3": MINUS_1_TO_1,
        "nasnet": MINUS_1_TO_1,
        "resnet": LESS_A_MEAN,
        "resnet_v2": MINUS_1_TO_1,
        "vgg": LESS_A_MEAN,
        "xception": MINUS_1_TO_1,
    }
)
LARGE = ("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l")


def keras_weights(name: str, source: str) -> WeightsInfo:
    """Return what weights of Keras's application of a variant expect.

    Images are what ``keras.utils.load_img(path, target_size=size, interpolation="bilinear")`` gives, after the
    application's ``preprocess_input`` or the layers with which some networks normalise images themselves.

    Args:
      name: the variant.
      source: where the weights are.
    Raises:
      ValueError: an unknown variant.
    """
    info = model_info(name)
    known = dataclasses.replace(weights_as_published(name, source), naming="keras")
    if info.family not in STATISTICS:
        # A network of ours that Keras has no application of.
        return known
    mean, std = FROM_128 if name in LARGE else STATISTICS[info.family]
    order: Any = "bgr" if STATISTICS[info.family] is LESS_A_MEAN else "rgb"
    images = ImageFormat(info.input_size, mean, std, None, "bilinear", order)
    return dataclasses.replace(known, images=images, fields=keras_fields(name))


def keras_fields(name: str) -> dict[str, Any]:
    """Return the fields of `FIELDS` that the variant has, and has another value for."""
    model = create_model(name)
    fields = FIELDS.get(name, FIELDS.get(model_info(name).family, {}))
    return {field: value for field, value in fields.items() if getattr(model, field, value) != value}
