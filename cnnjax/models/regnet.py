"""RegNetX and RegNetY: networks drawn from a design space whose widths grow linearly with depth.

Radosavovic, Kosaraju, Girshick, He and Dollar 2020, "Designing network design spaces", arXiv:2003.13678v1, section 3.3
and figures 15 and 16.
Goyal et al. 2021, "Self-supervised pretraining of visual features in the wild", arXiv:2103.01988v2, section 3
(RegNetY-128GF).

Four numbers and a group width make a network: block j wants width w_0 + w_a j (equation 2), which is rounded to
w_0 w_m^s with a whole s (equations 3 and 4); blocks of equal width form a stage.

Differs from the papers: nothing in the X and Y networks, with the rounding of torchvision (widths to multiples of 8,
then to multiples of the group width, exact halves to even).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, SqueezeExcite, he_fan_out
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ClassifierHead, StageGeometry, check_images, dilate_stages, round_width


class Row(NamedTuple):
    """Parameters of a network; count, multiply-adds (1e9) and top-1 (%) are torchvision's."""

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    num_params: int
    gmacs: float
    top1: float


# fmt: off
# arXiv:2003.13678, figure 15; top-1 of torchvision's V1 weights
X = {
    "regnet_x_400mf": Row(22, 24, 24.48, 2.54, 16, 5_495_976, 0.414, 72.834),
    "regnet_x_800mf": Row(16, 56, 35.73, 2.28, 16, 7_259_656, 0.800, 75.212),
    "regnet_x_1_6gf": Row(18, 80, 34.01, 2.25, 24, 9_190_136, 1.603, 77.040),
    "regnet_x_3_2gf": Row(25, 88, 26.31, 2.25, 48, 15_296_552, 3.177, 78.364),
    "regnet_x_8gf":   Row(23, 80, 49.56, 2.88, 120, 39_572_648, 7.995, 79.344),
    "regnet_x_16gf":  Row(22, 216, 55.59, 2.10, 128, 54_278_536, 15.941, 80.058),
    "regnet_x_32gf":  Row(23, 320, 69.86, 2.00, 168, 107_811_560, 31.736, 80.622),
}
# arXiv:2003.13678, figure 16; the last row arXiv:2103.01988, section 3
Y = {
    "regnet_y_400mf": Row(16, 48, 27.89, 2.09, 8, 4_344_144, 0.402, 74.046),
    "regnet_y_800mf": Row(14, 56, 38.84, 2.40, 16, 6_432_512, 0.834, 76.420),
    "regnet_y_1_6gf": Row(27, 48, 20.71, 2.65, 24, 11_202_430, 1.612, 77.950),
    "regnet_y_3_2gf": Row(21, 80, 42.63, 2.66, 24, 19_436_338, 3.176, 78.948),
    "regnet_y_8gf":   Row(17, 192, 76.82, 2.19, 56, 39_381_472, 8.473, 80.032),
    "regnet_y_16gf":  Row(18, 200, 106.23, 2.48, 112, 83_590_140, 15.912, 80.424),
    "regnet_y_32gf":  Row(20, 232, 115.89, 2.53, 232, 145_046_770, 32.280, 80.878),
    "regnet_y_128gf": Row(27, 456, 160.83, 2.52, 264, 644_812_894, 374.570, 88.228),
}
# fmt: on
RADOSAVOVIC2020 = "Radosavovic et al. 2020, arXiv:2003.13678"
GOYAL2021 = "Goyal et al. 2021, arXiv:2103.01988"


def stage_shapes(depth: int, w_0: int, w_a: float, w_m: float, group_width: int) -> tuple[tuple[int, int], ...]:
    """Return (blocks, width) of each stage.

    Source: arXiv:2003.13678, equations 2 to 4, and section 4 for widths that the groups divide; differs: rounding as at
    the head of this file.

    Args:
      depth: blocks in all.
      w_0, w_a: width of the first block and its growth a block.
      w_m: factor between the widths of consecutive stages.
      group_width: channels of a group, at most the width of a stage.

    >>> stage_shapes(depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16)
    ((1, 32), (2, 64), (7, 160), (12, 400))
    """
    powers = (round(math.log(1 + w_a * block / w_0) / math.log(w_m)) for block in range(depth))
    widths = [8 * round(w_0 * w_m**power / 8) for power in powers]
    shapes = []
    for width, blocks in itertools.groupby(widths):
        shapes.append((len(list(blocks)), round_width(width, min(group_width, width))))
    return tuple(shapes)


ModuleDef = Callable[..., Any]


class Block(nn.Module):
    """Residual block: 1x1, grouped 3x3 and 1x1 convolutions of one width (figure 4; Y adds squeeze-and-excitation).

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    group_width: int
    squeeze_ratio: float
    strides: int
    dilation: int
    conv: ModuleDef
    norm: ModuleDef
    squeeze_excite: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        in_features = x.shape[-1]
        y = self.conv(self.features, (1, 1), padding=0, name="conv1")(x)
        y = self.activation(self.norm(use_running_average=not train, name="norm1")(y))
        y = self.conv(
            self.features,
            (3, 3),
            strides=self.strides,
            padding=self.dilation,
            kernel_dilation=self.dilation,
            feature_group_count=self.features // min(self.group_width, self.features),
            name="conv2",
        )(y)
        y = self.activation(self.norm(use_running_average=not train, name="norm2")(y))
        if self.squeeze_ratio > 0:
            # The bottleneck is measured against the width that enters the block.
            y = self.squeeze_excite(round(self.squeeze_ratio * in_features), name="squeeze_excite")(y)
        y = self.conv(self.features, (1, 1), padding=0, name="conv3")(y)
        y = self.norm(use_running_average=not train, name="norm3")(y)
        if self.strides != 1 or in_features != self.features:
            x = self.conv(self.features, (1, 1), strides=self.strides, padding=0, name="proj_conv")(x)
            x = self.norm(use_running_average=not train, name="proj_norm")(x)
        return self.activation(x + y)


class Stem(nn.Module):
    """3x3 convolution of stride 2."""

    features: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map float[batch, height, width, channels] to [batch, ceil(height / 2), ceil(width / 2), features]."""
        x = self.conv(self.features, (3, 3), strides=2, padding=1, name="conv1")(x)
        return self.activation(self.norm(use_running_average=not train, name="norm1")(x))


class Stage(nn.Module):
    """Blocks of equal width, the first of which changes resolution and width."""

    make_block: Callable[..., Block]
    num_blocks: int
    geometry: StageGeometry

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the blocks to ``x``."""
        strides, dilation, later_dilation = self.geometry
        for index in range(1, self.num_blocks + 1):
            x = self.make_block(strides=strides, dilation=dilation, name=f"block{index}")(x, train)
            strides, dilation = 1, later_dilation
        return x


class RegNet(nn.Module):
    """RegNet: stem, stages of residual blocks, global average pooling, classifier.

    Source: Radosavovic et al. 2020, arXiv:2003.13678, section 3.3; differs: see the head of this file.

    Attributes:
      depth, w_0, w_a, w_m, group_width: the parameters of `stage_shapes`.
      squeeze_ratio: bottleneck of squeeze-and-excitation against the block's input; 0 for none (X), 1/4 in Y.
      stem_features: width of the stem.
      output_stride: 8, 16 or 32 pixels of the image for each of the last feature map; below 32 the last stages trade
        their stride for dilation.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more.
      train: normalise with the batch's statistics and move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small, or an ``output_stride`` that no stage ends at.
    """

    depth: int
    w_0: int
    w_a: float
    w_m: float
    group_width: int
    squeeze_ratio: float = 0.0
    num_classes: int = 1000
    stem_features: int = 32
    output_stride: int = 32
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        shapes = stage_shapes(self.depth, self.w_0, self.w_a, self.w_m, self.group_width)
        # One pixel is left after the last stage.
        check_images(images, min_size=2 * 2 ** len(shapes))
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        squeeze_excite = partial(SqueezeExcite, activation=self.activation, kernel_init=he_fan_out, **types)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(self.stem_features, conv, norm, self.activation, name="stem")(images, train)
        geometries = dilate_stages((2,) * len(shapes), self.output_stride, stem_stride=2)
        for index, ((num_blocks, features), geometry) in enumerate(zip(shapes, geometries, strict=True), start=1):
            block = partial(
                Block,
                features=features,
                group_width=self.group_width,
                squeeze_ratio=self.squeeze_ratio,
                conv=conv,
                norm=norm,
                squeeze_excite=squeeze_excite,
                activation=self.activation,
            )
            x = stage_class(block, num_blocks, geometry, name=f"stage{index}")(x, train)
        return ClassifierHead(
            self.num_classes, self.dropout_rate, kernel_init=nn.initializers.normal(0.01), **types, name="head"
        )(x, train)


def _variant(name: str, row: Row, squeeze_ratio: float, paper: str) -> Variant:
    largest = name == "regnet_y_128gf"
    info = ModelInfo(
        family="regnet",
        paper=f"{GOYAL2021}, section 3" if largest else paper,
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights=f"torchvision IMAGENET1K_{'SWAG_E2E_V1' if largest else 'V1'}",
        input_size=(384, 384) if largest else (224, 224),
        resize_size=384 if largest else None,
        interpolation="bicubic" if largest else "bilinear",
    )
    fields = {field: getattr(row, field) for field in ("depth", "w_0", "w_a", "w_m", "group_width")}
    return Variant(RegNet, fields | {"squeeze_ratio": squeeze_ratio}, info)


VARIANTS = {name: _variant(name, row, 0.0, f"{RADOSAVOVIC2020}, figure 15") for name, row in X.items()} | {
    name: _variant(name, row, 0.25, f"{RADOSAVOVIC2020}, figure 16") for name, row in Y.items()
}
