"""ResNet v1, with its wide and aggregated (ResNeXt) relatives, for ImageNet and CIFAR.

He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385v1, tables 1 and 6.
Zagoruyko and Komodakis 2016, "Wide residual networks", arXiv:1605.07146v4 (bottleneck form, section 3.5).
Xie, Girshick, Dollar, Tu and He 2017, "Aggregated residual transformations", arXiv:1611.05431v2, tables 1 and 7.

Differs from the papers, as torchvision does: bottlenecks take their stride in the 3x3 convolution ("v1.5"), not in the
first 1x1. Keras's ResNet50, 101 and 152 are these networks with ``strided_conv=1``, ``conv_bias=True`` and
``epsilon=1.001e-5``. CIFAR networks follow section 4.2: three stages of two-layer blocks with parameter-free shortcuts
(option A: every second pixel, and zeros for the new channels, half of them below and half above the old ones; the paper
leaves their place open). The plain networks are the same without shortcuts: their training error rises with depth
(figures 1, 4 and 6), which is what residual learning cures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, StochasticDepth, he_fan_out, space_to_depth_conv
from cnnjax.nn.activation import relu
from cnnjax.nn.building import (
    ClassifierHead,
    Stage,
    check_images,
    dilate_stages,
    norm_max_pool,
    pointwise_conv_norm,
    residual_blocks,
    stochastic_depth_rates,
)


class Row(NamedTuple):
    """A column of the papers' tables.

    Published with it: parameters, multiply-adds (1e9), top-1 accuracy on ImageNet and error on CIFAR-10 (percent),
    and the size (pixels) to which images are resized for that accuracy, where it is not 256.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    groups: int
    group_width: int
    num_params: int
    gmacs: float | None = None
    top1: float | None = None
    cifar_error: float | None = None
    resize_size: int | None = None


class Table(NamedTuple):
    """Rows of one paper, and the fields of the network that they share."""

    paper: str
    fields: dict[str, Any]
    rows: dict[str, Row]


HE2015, XIE2017, ZAGORUYKO2016 = (
    "He et al. 2015, arXiv:1512.03385",
    "Xie et al. 2017, arXiv:1611.05431",
    "Zagoruyko and Komodakis 2016, arXiv:1605.07146",
)
# fmt: off
# ImageNet; multiply-adds and top-1 are torchvision's, V1 weights.
IMAGENET = (
    Table(f"{HE2015}, table 1", {}, {
        "resnet18":  Row((2, 2, 2, 2),  False, 1, 64, 11_689_512, 1.814, 69.758),
        "resnet34":  Row((3, 4, 6, 3),  False, 1, 64, 21_797_672, 3.664, 73.314),
        "resnet50":  Row((3, 4, 6, 3),  True,  1, 64, 25_557_032, 4.089, 76.130),
        "resnet101": Row((3, 4, 23, 3), True,  1, 64, 44_549_160, 7.801, 77.374),
        "resnet152": Row((3, 8, 36, 3), True,  1, 64, 60_192_808, 11.514, 78.312),
    }),
    # Parameters: those of resnet18 and resnet34 less the projections.
    Table(f"{HE2015}, table 2", {"shortcut": "none"}, {
        "plain18": Row((2, 2, 2, 2), False, 1, 64, 11_515_688),
        "plain34": Row((3, 4, 6, 3), False, 1, 64, 21_623_848),
    }),
    Table(f"{XIE2017}, table 1", {}, {
        "resnext50_32x4d":  Row((3, 4, 6, 3),  True, 32, 4, 25_028_904, 4.230, 77.618),
        "resnext101_32x8d": Row((3, 4, 23, 3), True, 32, 8, 88_791_336, 16.414, 79.312),
        "resnext101_64x4d": Row((3, 4, 23, 3), True, 64, 4, 83_455_272, 15.460, 83.246, resize_size=232),
    }),
    Table(f"{ZAGORUYKO2016}, section 3.5", {}, {
        "wide_resnet50_2":  Row((3, 4, 6, 3),  True, 1, 128, 68_883_240, 11.398, 78.468),
        "wide_resnet101_2": Row((3, 4, 23, 3), True, 1, 128, 126_886_696, 22.753, 78.848),
    }),
)
SMALL_IMAGES: dict[str, Any] = {"small_images": True, "output_stride": 4}
HE2015_CIFAR = SMALL_IMAGES | {"features": 16}
# CIFAR-10. Of arXiv:1512.03385: depth 6n + 2, n blocks a stage.
CIFAR = (
    Table(f"{HE2015}, table 6", HE2015_CIFAR | {"shortcut": "zero_pad"}, {
        "resnet20":   Row((3, 3, 3),       False, 1, 64, 269_722, 0.0406, cifar_error=8.75),
        "resnet32":   Row((5, 5, 5),       False, 1, 64, 464_154, 0.0689, cifar_error=7.51),
        "resnet44":   Row((7, 7, 7),       False, 1, 64, 658_586, 0.0972, cifar_error=7.17),
        "resnet56":   Row((9, 9, 9),       False, 1, 64, 853_018, 0.1255, cifar_error=6.97),
        "resnet110":  Row((18, 18, 18),    False, 1, 64, 1_727_962, 0.2529, cifar_error=6.43),
        "resnet1202": Row((200, 200, 200), False, 1, 64, 19_421_274, 2.829, cifar_error=7.93),
    }),
    Table(f"{HE2015}, section 4.2", HE2015_CIFAR | {"shortcut": "none"}, {
        "plain20": Row((3, 3, 3), False, 1, 64, 269_722),
        "plain56": Row((9, 9, 9), False, 1, 64, 853_018),
    }),
    Table(f"{XIE2017}, table 7", SMALL_IMAGES, {
        "resnext29_8x64d":  Row((3, 3, 3), True, 8,  64, 34_426_698, cifar_error=3.65),
        "resnext29_16x64d": Row((3, 3, 3), True, 16, 64, 68_155_210, cifar_error=3.58),
    }),
)
# fmt: on


ModuleDef = Callable[..., Any]


class ResidualBlock(nn.Module):
    """What the two blocks share: y = activation(F(x) + shortcut(x)), equations 1 and 2 of arXiv:1512.03385.

    Without a shortcut, y = activation(F(x)): the layers of a plain network.

    Attributes:
      conv, norm: make a convolution and a normalisation.
      conv_norm: convolves 1x1 and normalises, see `cnnjax.nn.building.pointwise_conv_norm`.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and may drop F.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), out_features].
    """

    features: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    conv_norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    shortcut: Literal["projection", "zero_pad", "none"] = "projection"
    groups: int = 1
    group_width: int = 64
    strided_conv: Literal[1, 2] = 2
    dilations: tuple[int, int] = (1, 1)
    zero_init: bool = False
    stochastic_depth_rate: float = 0.0

    @property
    def out_features(self) -> int:
        """Channels of the block's output."""
        return self.features

    @property
    def last_scale_init(self) -> Initializer:
        """Where the scale of F's last normalisation starts."""
        return nn.initializers.zeros if self.zero_init else nn.initializers.ones

    def residual(self, x: jax.Array, train: bool) -> jax.Array:
        """Return F(x)."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        y = self.residual(x, train)
        if self.shortcut == "none":
            return self.activation(y)
        y = StochasticDepth(self.stochastic_depth_rate)(y, train)
        if self.strides != 1 or x.shape[-1] != self.out_features:
            if self.shortcut == "projection":
                names = ("proj_conv", "proj_norm")
                x = self.conv_norm(
                    x, self.out_features, strides=self.strides, use_running_average=not train, names=names
                )
            else:
                missing = self.out_features - x.shape[-1]
                x = x[:, :: self.strides, :: self.strides]
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return self.activation(x + y)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions (figure 5, left)."""

    def residual(self, x: jax.Array, train: bool) -> jax.Array:
        """Return F(x)."""
        before, after = self.dilations
        x = self.conv(
            self.features, (3, 3), strides=self.strides, padding=before, kernel_dilation=before, name="conv1"
        )(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = self.conv(self.features, (3, 3), padding=after, kernel_dilation=after, name="conv2")(x)
        return self.norm(use_running_average=not train, scale_init=self.last_scale_init, name="norm2")(x)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions; the middle one may be wider or in groups (figure 5, right; ResNeXt figure 3c)."""

    @property
    def out_features(self) -> int:
        """Channels of the block's output."""
        return 4 * self.features

    def residual(self, x: jax.Array, train: bool) -> jax.Array:
        """Return F(x)."""
        width = self.features * self.group_width // 64 * self.groups
        first_strides, second_strides = (self.strides, 1) if self.strided_conv == 1 else (1, self.strides)
        dilation = self.dilations[1] if self.strided_conv == 1 else self.dilations[0]
        x = self.conv(width, (1, 1), strides=first_strides, padding=0, name="conv1")(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = self.conv(
            width,
            (3, 3),
            strides=second_strides,
            padding=dilation,
            kernel_dilation=dilation,
            feature_group_count=self.groups,
            name="conv2",
        )(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm2")(x))
        return self.conv_norm(
            x,
            self.out_features,
            use_running_average=not train,
            scale_init=self.last_scale_init,
            names=("conv3", "norm3"),
        )


class Stem(nn.Module):
    """First convolution: 7x7 with stride 2 and a 3x3 max pool of stride 2 (ImageNet), or 3x3 (CIFAR)."""

    features: int
    small_images: bool
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    norm_max_pool: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map float[batch, height, width, channels] to [batch, height / 4 or height, width / 4 or width, features]."""
        if self.small_images:
            x = self.conv(self.features, (3, 3), padding=1, name="conv1")(x)
            return self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = self.conv(self.features, (7, 7), strides=2, padding=3, name="conv1")(x)
        return self.norm_max_pool(x, 3, 2, padding=1, use_running_average=not train, name="norm1")


class ResNet(nn.Module):
    """ResNet v1: stem, stages of residual blocks, global average pooling, classifier.

    Source: He et al. 2015, arXiv:1512.03385, table 1 and section 4.2; differs: see the head of this file.

    Attributes:
      stage_sizes: blocks a stage; each stage but the first halves the resolution and doubles the width.
      bottleneck: three-layer blocks instead of two-layer ones.
      features: width of the first stage.
      groups, group_width: groups of the 3x3 convolution in bottlenecks and their width at 64 features.
      small_images: the stem of the CIFAR networks.
      strided_conv: which convolution of a bottleneck takes its stride, the first (1x1) or the second (3x3).
      conv_bias: whether convolutions have biases.
      epsilon: added to the variance by batch norm.
      shortcut: "projection" (option B) or "zero_pad" (option A) where a block changes the shape; "none" for a plain
        network.
      output_stride: pixels of the image for each pixel of the last stage: as published, or fewer by dilation.
      stochastic_depth_rate: probability to drop the last block, rising linearly from 0 at the first.
      zero_init_residual: start the last normalisation of each block at 0, so that blocks begin as identities.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.
      fold_norms: normalise the output of 1x1 convolutions that widen without having it in memory, and the stem's after
        pooling, see `cnnjax.nn.FoldedBatchNorm` and `PoolingBatchNorm`: same variables, same results but for rounding.
        A layer such as ``conv3`` then returns its kernel, ``norm3`` what both compute, and the stem's ``norm1`` pools.
      space_to_depth_stem: compute the first convolution over blocks of 2x2 pixels, see
        `cnnjax.nn.space_to_depth_conv`: same variables, same results but for rounding, images of even sizes only.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more (4 for the
        CIFAR networks).
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop blocks.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; an ``output_stride`` that no stage reaches; blocks to drop or to start at 0 in a
        plain network, which would lose the signal; ``fold_norms`` with ``conv_bias``.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool = True
    num_classes: int = 1000
    features: int = 64
    groups: int = 1
    group_width: int = 64
    small_images: bool = False
    strided_conv: Literal[1, 2] = 2
    conv_bias: bool = False
    epsilon: float = 1e-5
    shortcut: Literal["projection", "zero_pad", "none"] = "projection"
    output_stride: int = 32
    stochastic_depth_rate: float = 0.0
    zero_init_residual: bool = False
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    fold_norms: bool = False
    space_to_depth_stem: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the last stage."""
        return 2 ** (len(self.stage_sizes) - 1) * (1 if self.small_images else 4)

    def feature_maps(self, images: jax.Array, train: bool) -> list[jax.Array]:
        """Return the output of each stage, for the compact method of a network that has these stages."""
        check_images(images, min_size=self.min_size)
        if self.shortcut == "none" and (self.stochastic_depth_rate or self.zero_init_residual):
            raise ValueError(
                "a network without shortcuts needs stochastic_depth_rate=0 and zero_init_residual=False, got "
                f"{self.stochastic_depth_rate} and {self.zero_init_residual}"
            )
        if self.small_images and self.space_to_depth_stem:
            raise ValueError("space_to_depth_stem is for the 7x7 stem; leave it out with small_images")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=self.conv_bias, kernel_init=he_fan_out, **types)
        norm = partial(BatchNorm, epsilon=self.epsilon, axis_name=self.axis_name, **types)
        conv_norm = partial(pointwise_conv_norm, conv=conv, norm=norm, fold=self.fold_norms)
        pool = partial(norm_max_pool, norm=norm, activation=self.activation, fold=self.fold_norms)
        stem_conv = partial(conv, conv_general_dilated=space_to_depth_conv) if self.space_to_depth_stem else conv
        rates = stochastic_depth_rates(self.stochastic_depth_rate, self.stage_sizes)
        strides = (1,) + (2,) * (len(self.stage_sizes) - 1)
        geometries = dilate_stages(strides, self.output_stride, stem_stride=1 if self.small_images else 4)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        maps = []
        stem = Stem(self.features, self.small_images, stem_conv, norm, self.activation, pool, name="stem")
        x = stem(images, train)
        for index, (geometry, stage_rates) in enumerate(zip(geometries, rates, strict=True)):
            block = partial(
                Bottleneck if self.bottleneck else BasicBlock,
                features=self.features * 2**index,
                conv=conv,
                norm=norm,
                conv_norm=conv_norm,
                activation=self.activation,
                shortcut=self.shortcut,
                groups=self.groups,
                group_width=self.group_width,
                strided_conv=self.strided_conv,
                zero_init=self.zero_init_residual,
            )
            x = stage_class(residual_blocks(block, geometry, stage_rates), name=f"stage{index + 1}")(x, train)
            maps.append(x)
        return maps

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        x = self.feature_maps(images, train)[-1]
        return ClassifierHead(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")(x, train)


class ResNetEncoder(ResNet):
    """A ResNet without its head, for networks that label pixels.

    Returns:
      float[batch, height / strides, width / strides, features] twice: the output of the last stage but one, and of the
      last.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        """Return two feature maps of ``images``."""
        *_, before_last, last = self.feature_maps(images, train)
        return before_last, last


def _variant(table: Table, row: Row) -> Variant:
    info = ModelInfo(
        family="resnet",
        paper=table.paper,
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights="torchvision IMAGENET1K_V1" if row.top1 else None,
        resize_size=row.resize_size,
    )
    if table in CIFAR:
        info = dataclasses.replace(
            info,
            num_classes=10,
            input_size=(32, 32),
            min_size=4,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            result=f"error {row.cifar_error} % (CIFAR-10)" if row.cifar_error else None,
        )
    fields = {field: getattr(row, field) for field in ("stage_sizes", "bottleneck", "groups", "group_width")}
    return Variant(ResNet, table.fields | fields, info)


VARIANTS = {name: _variant(table, row) for table in (*IMAGENET, *CIFAR) for name, row in table.rows.items()}
