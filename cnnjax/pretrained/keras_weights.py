"""What weights of Keras's applications expect of a network and of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cnnjax.models import create_model, model_info
from cnnjax.models.variant import IMAGENET_MEAN, IMAGENET_STD
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.weights import WeightsInfo, weights_as_published
from cnnjax.runs.images import ImageFormat

# Fields in which Keras's network of a family, or of a name, differs from the variant.
TENSORFLOW = {"padding": "SAME", "epsilon": 1e-3}
FIELDS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "efficientnet": TENSORFLOW,
        "inception_v3": {"aux_classifiers": False, "norm_scale": False, "count_include_pad": False},
        "inception_v4": {"norm_scale": False},
        "mobilenet_v1": TENSORFLOW,
        "mobilenet_v2": TENSORFLOW,
        "mobilenet_v3": {"padding": "SAME"},
        **dict.fromkeys(
            ("resnet50", "resnet101", "resnet152"), {"strided_conv": 1, "conv_bias": True, "epsilon": 1.001e-5}
        ),
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
        "vgg": LESS_A_MEAN,
        "xception": MINUS_1_TO_1,
    }
)
# Keras's applications of these names are other networks.
OTHERS = MappingProxyType(
    {
        "resnet_v2": "takes strides in the last block of each stage, and its convolutions have biases",
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
      WeightsFileError (a ValueError): Keras's network of that name is another one.
      ValueError: an unknown variant.
    """
    info = model_info(name)
    if (difference := OTHERS.get(info.family)) is not None:
        raise WeightsFileError(
            f"{source}: Keras's network is not our {name}: it {difference}; take weights of torchvision or timm"
        )
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
