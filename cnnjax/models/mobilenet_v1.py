"""MobileNet, with its width multiplier.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto and Adam 2017, "MobileNets: efficient convolutional neural
networks for mobile vision applications", arXiv:1704.04861v1, table 1.

Differs from the paper, as timm does: ReLU ends at 6, as in the authors' implementation, and convolutions pad equally on
all sides (TensorFlow's SAME in theirs). Keras's MobileNet is this network with ``padding="SAME"`` and ``epsilon=1e-3``.
The last row but one of table 1 says stride 2 where the output's size says 1; it is 1 in every implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, he_fan_out
from cnnjax.nn.activation import relu6
from cnnjax.nn.building import (
    ClassifierHead,
    ConvNorm,
    Stage,
    check_images,
    conv_padding,
    round_width,
    split_stages,
)
from cnnjax.nn.initializers import he_fan_in
from cnnjax.nn.inverted_residual import ModuleDef, PaddingRule

# Table 1: maps and stride of each pair "Conv dw" and "Conv 1x1"; the stem has 32 maps.
STEM_FEATURES = 32
TABLE_1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))

# Table 6: width multiplier, parameters, multiply-adds (1e9) and top-1 (%).
TABLE_6 = {
    "mobilenet_v1": (1.0, 4_231_976, 0.5687, 70.6),
    "mobilenet_v1_075": (0.75, 2_585_560, 0.3254, 68.4),
    "mobilenet_v1_050": (0.5, 1_331_592, 0.1495, 63.7),
    "mobilenet_v1_025": (0.25, 470_072, 0.0410, 50.6),
}

# Variance 2 / kernel area: timm divides a depthwise kernel's fan-out by its groups.
depthwise_init: Initializer = he_fan_in


class DepthwiseSeparable(nn.Module):
    """A 3x3 filter for each channel, then a 1x1 convolution, both normalised and activated (figure 3, right).

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    strides: int
    dilation: int
    padding: PaddingRule
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        x = self.conv(
            x.shape[-1],
            (3, 3),
            strides=self.strides,
            padding=conv_padding(self.padding, 3, self.dilation),
            kernel_dilation=self.dilation,
            feature_group_count=x.shape[-1],
            kernel_init=depthwise_init,
            name="depthwise_conv",
        )(x)
        x = self.activation(self.norm(use_running_average=not train, name="depthwise_norm")(x))
        x = self.conv(self.features, (1, 1), padding=0, name="pointwise_conv")(x)
        return self.activation(self.norm(use_running_average=not train, name="pointwise_norm")(x))


class MobileNetV1(nn.Module):
    """MobileNet: a 3x3 convolution, depthwise separable ones, global average pooling, classifier.

    Source: Howard et al. 2017, arXiv:1704.04861, table 1; differs: see the head of this file.

    Attributes:
      rows: maps and stride of each pair of convolutions, as in table 1.
      width_multiplier: factor of all widths (section 3.3).
      dropout_rate: before the classifier.
      output_stride: pixels of the image for each pixel of the last feature map, 32 or less; stages beyond it are
        dilated.
      padding: "symmetric" (PyTorch's rule) or "SAME" (TensorFlow's).
      epsilon: added to the variance by batch norm.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop out.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    """

    num_classes: int = 1000
    rows: tuple[tuple[int, int], ...] = TABLE_1
    width_multiplier: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = relu6
    dropout_rate: float = 0.0
    output_stride: int = 32
    padding: PaddingRule = "symmetric"
    epsilon: float = 1e-5
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, epsilon=self.epsilon, **types),
            "padding": self.padding,
            "activation": self.activation,
        }
        rows = ({"features": self._width(features), "strides": strides} for features, strides in self.rows)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvNorm(self._width(STEM_FEATURES), kernel_size=3, strides=2, **layers, name="stem")(images, train)
        for index, stage in enumerate(split_stages(rows, output_stride=self.output_stride), start=1):
            blocks = tuple(partial(DepthwiseSeparable, **layers, **fields) for fields in stage)
            x = stage_class(blocks, name=f"stage{index}")(x, train)
        return ClassifierHead(
            self.num_classes,
            dropout_rate=self.dropout_rate,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
            **types,
            name="head",
        )(x, train)

    def _width(self, features: int) -> int:
        return round_width(features * self.width_multiplier)


def _variant(width_multiplier: float, num_params: int, gmacs: float, top1: float) -> Variant:
    info = ModelInfo(
        family="mobilenet_v1",
        paper="Howard et al. 2017, arXiv:1704.04861, tables 1 and 6",
        num_params=num_params,
        min_size=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        gmacs=gmacs,
        top1=top1,
        weights="the paper's, table 6",
    )
    return Variant(MobileNetV1, {"width_multiplier": width_multiplier}, info)


VARIANTS = {name: _variant(*row) for name, row in TABLE_6.items()}
