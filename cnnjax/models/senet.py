"""SENet: ResNet, ResNeXt and SENet-154 with squeeze-and-excitation.

Hu, Shen and Sun 2018, "Squeeze-and-excitation networks", arXiv:1709.01507v4, table 1 and appendix (SENet-154).

Each block scales the channels of its last normalisation's output before the shortcut is added. Follows the authors'
Caffe networks, as timm's ``legacy_`` ones do: no padding in the stem's max pool, which keeps a last window that only
partly covers its input, and in SE-ResNet the stride in the first 1x1 convolution (in the 3x3 one in SE-ResNeXt and
SENet-154).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, SqueezeExcite, StochasticDepth, he_fan_out, max_pool
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
    """A column of the paper's table 1, or its appendix, with the published parameters and multiply-adds (1e9).

    Attributes:
      widths: features of a block's 1x1, 3x3 and 1x1 convolutions in the first stage; each further stage doubles them.
      groups: of the 3x3 convolution.
      strided_conv: which convolution of a block takes its stride.
      proj_size: kernel of the projections that halve the resolution.
      stem_features: of the convolutions before the first stage: one of 7x7, or several of 3x3.
      dropout_rate: before the classifier.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, int, int]
    groups: int
    strided_conv: Literal[1, 2]
    proj_size: int
    stem_features: tuple[int, ...]
    dropout_rate: float
    num_params: int
    gmacs: float


HU2018 = "Hu et al. 2018, arXiv:1709.01507"
# Multiply-adds are those of the paper's table 2, for senet154 timm's.
# fmt: off
TABLE = {
    "seresnet50":        Row((3, 4, 6, 3),  (64, 64, 256),   1,  1, 1, (64,),         0.0, 28_088_024, 3.87),
    "seresnext50_32x4d": Row((3, 4, 6, 3),  (128, 128, 256), 32, 2, 1, (64,),         0.0, 27_559_896, 4.25),
    "senet154":          Row((3, 8, 36, 3), (128, 256, 256), 64, 2, 3, (64, 64, 128), 0.2, 115_088_984, 20.77),
}
# fmt: on
# Section 6.1: the squeezed features are a sixteenth of the block's.
REDUCTION = 16
# One pixel is left after the last stage.
MIN_SIZE = 32

ModuleDef = Callable[..., Any]


class SEBottleneck(nn.Module):
    """activation(x + gate * F(x)), where F is 1x1, 3x3 and 1x1 convolutions (figure 3, right).

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and may drop F.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), widths[2]].
    """

    widths: tuple[int, int, int]
    groups: int
    strides: int
    dilations: tuple[int, int]
    strided_conv: Literal[1, 2]
    proj_size: int
    conv: ModuleDef
    norm: ModuleDef
    gate: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""

        def normalise(x: jax.Array, name: str) -> jax.Array:
            return self.norm(use_running_average=not train, name=name)(x)

        first, second, out_features = self.widths
        first_strides, second_strides = (self.strides, 1) if self.strided_conv == 1 else (1, self.strides)
        # What takes the block's step, or comes before it, reads the grid of the stage before.
        first_dilation, later_dilation = self.dilations
        dilation = later_dilation if self.strided_conv == 1 else first_dilation

        y = self.conv(first, (1, 1), strides=first_strides, padding=0, name="conv1")(x)
        y = self.activation(normalise(y, "norm1"))
        y = self.conv(
            second,
            (3, 3),
            strides=second_strides,
            padding=dilation,
            kernel_dilation=dilation,
            feature_group_count=self.groups,
            name="conv2",
        )(y)
        y = self.activation(normalise(y, "norm2"))
        y = normalise(self.conv(out_features, (1, 1), padding=0, name="conv3")(y), "norm3")
        y = self.gate(out_features // REDUCTION, name="se")(y)
        y = StochasticDepth(self.stochastic_depth_rate)(y, train)
        if self.strides != 1 or x.shape[-1] != out_features:
            x = self.conv(
                out_features,
                (self.proj_size, self.proj_size),
                strides=self.strides,
                padding=self.proj_size // 2 * first_dilation,
                kernel_dilation=first_dilation,
                name="proj_conv",
            )(x)
            x = normalise(x, "proj_norm")
        return self.activation(x + y)


class Stem(nn.Module):
    """Convolutions, the first with stride 2, and a 3x3 max pool of stride 2."""

    features: tuple[int, ...]
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map float[batch, height, width, channels] to [batch, height / 4, width / 4, features[-1]]."""
        size = 7 if len(self.features) == 1 else 3
        for index, features in enumerate(self.features, start=1):
            strides = 2 if index == 1 else 1
            x = self.conv(features, (size, size), strides=strides, padding=size // 2, name=f"conv{index}")(x)
            x = self.activation(self.norm(use_running_average=not train, name=f"norm{index}")(x))
        return max_pool(x, 3, 2, ceil_mode=True)


class SENet(nn.Module):
    """ResNet-like network whose blocks weigh their channels: stem, four stages, average pooling, classifier.

    Source: Hu et al. 2018, arXiv:1709.01507, table 1 and appendix; differs: see the head of this file.

    Attributes:
      stage_sizes: blocks a stage; each stage but the first halves the resolution and doubles the widths.
      widths, groups, strided_conv, proj_size, stem_features: as in `Row`.
      output_stride: pixels of the image for each pixel of the last stage: as published, or fewer by dilation.
      dropout_rate: of the features before the classifier.
      stochastic_depth_rate: probability to drop the last block, rising linearly from 0 at the first.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop features
        and blocks.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; an ``output_stride`` that no stage reaches.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, int, int] = (64, 64, 256)
    groups: int = 1
    strided_conv: Literal[1, 2] = 2
    proj_size: int = 1
    stem_features: tuple[int, ...] = (64,)
    num_classes: int = 1000
    output_stride: int = 32
    dropout_rate: float = 0.0
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
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        gate = partial(SqueezeExcite, kernel_init=he_fan_out, **types)
        rates = stochastic_depth_rates(self.stochastic_depth_rate, self.stage_sizes)
        geometries = dilate_stages((1, 2, 2, 2), self.output_stride, stem_stride=4)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(self.stem_features, conv, norm, self.activation, name="stem")(images, train)
        for index, (geometry, stage_rates) in enumerate(zip(geometries, rates, strict=True)):
            first, second, third = self.widths
            block = partial(
                SEBottleneck,
                proj_size=1 if index == 0 else self.proj_size,
                widths=(first * 2**index, second * 2**index, third * 2**index),
                groups=self.groups,
                strided_conv=self.strided_conv,
                conv=conv,
                norm=norm,
                gate=gate,
                activation=self.activation,
            )
            x = stage_class(residual_blocks(block, geometry, stage_rates), name=f"stage{index + 1}")(x, train)
        return ClassifierHead(self.num_classes, dropout_rate=self.dropout_rate, **types, name="head")(x, train)


def _variant(name: str, row: Row) -> Variant:
    info = ModelInfo(
        family="senet",
        paper=f"{HU2018}, appendix" if name == "senet154" else f"{HU2018}, table 1",
        num_params=row.num_params,
        min_size=MIN_SIZE,
        gmacs=row.gmacs,
    )
    fields = row._asdict()
    del fields["num_params"], fields["gmacs"]
    return Variant(SENet, fields, info)


VARIANTS = {name: _variant(name, row) for name, row in TABLE.items()}
