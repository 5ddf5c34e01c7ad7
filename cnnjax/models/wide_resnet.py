"""Wide ResNet for CIFAR.

Zagoruyko and Komodakis 2016, "Wide residual networks", arXiv:1605.07146v4, tables 1 and 5.

Pre-activation blocks of two 3x3 convolutions, k times as wide as a ResNet of 16, 32 and 64 features, with dropout
between the convolutions. Differs from the paper in nothing; where a block changes the shape, its projection reads the
activated input, as in the authors' code. The ImageNet networks of the paper, bottlenecks of double width, are variants
of ResNet: ``wide_resnet50_2`` and ``wide_resnet101_2``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, StochasticDepth, he_fan_out
from cnnjax.nn.activation import relu
from cnnjax.nn.building import (
    ClassifierHead,
    Stage,
    check_images,
    dilate_stages,
    residual_blocks,
    stochastic_depth_rates,
)


class Row(NamedTuple):
    """A row of table 5: depth, width k; published parameters, multiply-adds (1e9) and error on CIFAR-10 (percent)."""

    depth: int
    width: int
    num_params: int
    gmacs: float
    cifar_error: float


TABLE5 = {
    "wrn_16_8": Row(16, 8, 10_961_370, 1.548, 4.27),
    "wrn_40_4": Row(40, 4, 8_949_210, 1.299, 4.53),
    "wrn_28_10": Row(28, 10, 36_479_194, 5.243, 4.00),
}
# Table 1: features of the stem, and of the stages before they are widened.
STEM_FEATURES = 16
STAGE_FEATURES = (16, 32, 64)
# One pixel is left after the last stage.
MIN_SIZE = 4

ModuleDef = Callable[..., Any]


class WideBlock(nn.Module):
    """x + F(x), where F is two 3x3 convolutions, each after normalisation and activation (figure 1 d).

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics, applies dropout and may drop F.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    strides: int
    dilations: tuple[int, int]
    dropout_rate: float
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        first, second = self.dilations
        activated = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        y = self.conv(self.features, (3, 3), strides=self.strides, padding=first, kernel_dilation=first, name="conv1")(
            activated
        )
        y = self.activation(self.norm(use_running_average=not train, name="norm2")(y))
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = self.conv(self.features, (3, 3), padding=second, kernel_dilation=second, name="conv2")(y)
        y = StochasticDepth(self.stochastic_depth_rate)(y, train)
        if self.strides != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, (1, 1), strides=self.strides, padding=0, name="proj_conv")(activated)
        return x + y


class Stem(nn.Module):
    """One 3x3 convolution: float[batch, height, width, channels] -> [batch, height, width, 16]."""

    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve ``x``."""
        return self.conv(STEM_FEATURES, (3, 3), padding=1, name="conv1")(x)


class WideResNet(nn.Module):
    """Wide ResNet: stem, three stages of wide blocks, a last normalisation, average pooling, classifier.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146, table 1; differs: nothing.

    Attributes:
      depth: convolutions, the three projections among them: 6n + 4 with n blocks a stage.
      width: how many times as wide as a plain ResNet, k in the paper.
      dropout_rate: of the values between the convolutions of a block; 0.3 where the paper uses it on CIFAR.
      output_stride: pixels of the image for each pixel of the last stage: 4 as published, or 2 by dilation.
      stochastic_depth_rate: probability to drop the last block, rising linearly from 0 at the first.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 4 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop values
        and blocks.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; a depth that is not 6n + 4; an ``output_stride`` that no stage reaches.
    """

    depth: int
    width: int
    num_classes: int = 10
    dropout_rate: float = 0.0
    output_stride: int = 4
    stochastic_depth_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth must be 10, 16, 22 or another 6n + 4, got {self.depth}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        rates = stochastic_depth_rates(self.stochastic_depth_rate, ((self.depth - 4) // 6,) * 3)
        geometries = dilate_stages((1, 2, 2), self.output_stride, stem_stride=1)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(conv, name="stem")(images)
        for index, (geometry, stage_rates) in enumerate(zip(geometries, rates, strict=True)):
            block = partial(
                WideBlock,
                features=self.width * STAGE_FEATURES[index],
                dropout_rate=self.dropout_rate,
                conv=conv,
                norm=norm,
                activation=self.activation,
            )
            x = stage_class(residual_blocks(block, geometry, stage_rates), name=f"stage{index + 1}")(x, train)
        return ClassifierHead(self.num_classes, norm=norm, activation=self.activation, **types, name="head")(x, train)


VARIANTS = {
    name: Variant(
        WideResNet,
        {"depth": row.depth, "width": row.width},
        ModelInfo(
            family="wide_resnet",
            paper="Zagoruyko and Komodakis 2016, arXiv:1605.07146, tables 1 and 5",
            num_params=row.num_params,
            num_classes=10,
            input_size=(32, 32),
            min_size=MIN_SIZE,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            gmacs=row.gmacs,
            result=f"error {row.cifar_error} % (CIFAR-10)",
        ),
    )
    for name, row in TABLE5.items()
}
