"""ResNet v2: residual blocks that normalise and activate first, for ImageNet and CIFAR.

He, Zhang, Ren and Sun 2016, "Identity mappings in deep residual networks", arXiv:1603.05027v3, figure 4 (e) and tables
4 and 5.

The shortcuts carry the signal from the first block to the last without an activation on the way; where a block changes
the shape, its projection reads the activated input (appendix). ImageNet networks are timm's, which differ from the
paper in two ways: the stride is in the 3x3 convolution (in the first 1x1 there), and the stem has no normalisation of
its own, so that its max pool reads the bare convolution. Keras's ResNet50V2, 101V2 and 152V2 are these networks with
``strided_block="last"``, ``conv_bias=True``, ``pool_zeros=True`` and ``epsilon=1.001e-5``. CIFAR networks are the
paper's: three stages of bottlenecks behind one convolution, stride in the first 1x1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, StochasticDepth, he_fan_out, max_pool
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
    """A network of the paper, with its published parameters, multiply-adds (1e9) and error on CIFAR-10 (percent)."""

    stage_sizes: tuple[int, ...]
    num_params: int
    gmacs: float | None = None
    cifar_error: float | None = None


HE2016 = "He et al. 2016, arXiv:1603.05027"
# Table 5 names 152 layers; 50 and 101 are built alike, with the stages of arXiv:1512.03385, table 1.
IMAGENET = {
    "resnetv2_50": Row((3, 4, 6, 3), 25_549_352),
    "resnetv2_101": Row((3, 4, 23, 3), 44_541_480),
    "resnetv2_152": Row((3, 8, 36, 3), 60_185_128),
}
# Table 4: depth 9n + 2, n blocks a stage.
CIFAR = {
    "resnet164": Row((18, 18, 18), 1_703_258, 0.2445, 5.46),
    "resnet1001": Row((111, 111, 111), 10_327_706, 1.488, 4.92),
}

ModuleDef = Callable[..., Any]


class PreActBottleneck(nn.Module):
    """x + F(x), with normalisation and activation before each of F's 1x1, 3x3 and 1x1 convolutions (figure 4 e).

    Attributes:
      conv, bare_conv: make a convolution that normalisation follows, and one that it does not follow.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and may drop F.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), 4 * features].
    """

    features: int
    strides: int
    dilations: tuple[int, int]
    strided_conv: Literal[1, 2]
    conv: ModuleDef
    bare_conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""

        def normalise(x: jax.Array, name: str) -> jax.Array:
            return self.activation(self.norm(use_running_average=not train, name=name)(x))

        out_features = 4 * self.features
        first_strides, second_strides = (self.strides, 1) if self.strided_conv == 1 else (1, self.strides)
        dilation = self.dilations[1] if self.strided_conv == 1 else self.dilations[0]
        activated = normalise(x, "norm1")
        y = self.conv(self.features, (1, 1), strides=first_strides, padding=0, name="conv1")(activated)
        y = self.conv(
            self.features,
            (3, 3),
            strides=second_strides,
            padding=dilation,
            kernel_dilation=dilation,
            name="conv2",
        )(normalise(y, "norm2"))
        y = self.bare_conv(out_features, (1, 1), padding=0, name="conv3")(normalise(y, "norm3"))
        y = StochasticDepth(self.stochastic_depth_rate)(y, train)
        if x.shape[-1] != out_features:
            x = self.bare_conv(out_features, (1, 1), strides=self.strides, padding=0, name="proj_conv")(activated)
        elif self.strides != 1:
            x = x[:, :: self.strides, :: self.strides]
        return x + y


class Stem(nn.Module):
    """First convolution: 7x7 with stride 2 and a 3x3 max pool of stride 2 (ImageNet), or 3x3 (CIFAR)."""

    features: int
    small_images: bool
    conv: ModuleDef
    pool_zeros: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[batch, height, width, channels] to [batch, height / 4 or height, width / 4 or width, features]."""
        if self.small_images:
            return self.conv(self.features, (3, 3), padding=1, name="conv1")(x)
        x = self.conv(self.features, (7, 7), strides=2, padding=3, name="conv1")(x)
        if self.pool_zeros:
            return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        return max_pool(x, 3, 2, padding=1)


class ResNetV2(nn.Module):
    """ResNet v2: stem, stages of pre-activation bottlenecks, a last normalisation, average pooling, classifier.

    Source: He et al. 2016, arXiv:1603.05027, figure 4 (e) and appendix; differs: see the head of this file.

    Attributes:
      stage_sizes: blocks a stage; each stage but the first has half the resolution and twice the width.
      features: width of the 3x3 convolutions of the first stage, and of the stem.
      small_images: the stem of the CIFAR networks.
      strided_conv: which convolution of a block takes its stride, the first (1x1) or the second (3x3).
      strided_block: "first": the first block of each stage but the first halves the resolution; "last": the last block
        of each stage but the last.
      conv_bias: whether convolutions that no normalisation follows have biases.
      pool_zeros: whether the stem's max pool sees zeros around the maps, which may win.
      epsilon: added to the variance by batch norm.
      output_stride: pixels of the image for each pixel of the last stage: as published, or fewer by dilation.
      stochastic_depth_rate: probability to drop the last block, rising linearly from 0 at the first.
      dropout_rate: of the features before the classifier.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more (4 for the
        CIFAR networks).
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop blocks.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; an ``output_stride`` that no stage reaches.
    """

    stage_sizes: tuple[int, ...]
    num_classes: int = 1000
    features: int = 64
    small_images: bool = False
    strided_conv: Literal[1, 2] = 2
    strided_block: Literal["first", "last"] = "first"
    conv_bias: bool = False
    pool_zeros: bool = False
    epsilon: float = 1e-5
    output_stride: int = 32
    stochastic_depth_rate: float = 0.0
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the last stage."""
        return 2 ** (len(self.stage_sizes) - 1) * (1 if self.small_images else 4)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, **types)
        bare_conv = partial(conv, use_bias=self.conv_bias)
        norm = partial(BatchNorm, epsilon=self.epsilon, axis_name=self.axis_name, **types)
        rates = stochastic_depth_rates(self.stochastic_depth_rate, self.stage_sizes)
        halvings = (2,) * (len(self.stage_sizes) - 1)
        strides = (1, *halvings) if self.strided_block == "first" else (*halvings, 1)
        geometries = dilate_stages(strides, self.output_stride, stem_stride=1 if self.small_images else 4)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(self.features, self.small_images, bare_conv, self.pool_zeros, name="stem")(images)
        for index, (geometry, stage_rates) in enumerate(zip(geometries, rates, strict=True)):
            block = partial(
                PreActBottleneck,
                features=self.features * 2**index,
                strided_conv=self.strided_conv,
                conv=conv,
                bare_conv=bare_conv,
                norm=norm,
                activation=self.activation,
            )
            blocks = residual_blocks(block, geometry, stage_rates, self.strided_block)
            x = stage_class(blocks, name=f"stage{index + 1}")(x, train)
        return ClassifierHead(
            self.num_classes,
            dropout_rate=self.dropout_rate,
            kernel_init=nn.initializers.normal(0.01),
            norm=norm,
            activation=self.activation,
            **types,
            name="head",
        )(x, train)


def _imagenet(row: Row) -> Variant:
    info = ModelInfo(
        family="resnet_v2",
        paper=f"{HE2016}, table 5",
        num_params=row.num_params,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return Variant(ResNetV2, {"stage_sizes": row.stage_sizes}, info)


def _cifar(row: Row) -> Variant:
    info = ModelInfo(
        family="resnet_v2",
        paper=f"{HE2016}, table 4",
        num_params=row.num_params,
        num_classes=10,
        input_size=(32, 32),
        min_size=4,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        gmacs=row.gmacs,
        result=f"error {row.cifar_error} % (CIFAR-10)",
    )
    fields = {
        "stage_sizes": row.stage_sizes,
        "features": 16,
        "small_images": True,
        "strided_conv": 1,
        "output_stride": 4,
    }
    return Variant(ResNetV2, fields, info)


VARIANTS = {name: _imagenet(row) for name, row in IMAGENET.items()} | {name: _cifar(row) for name, row in CIFAR.items()}
