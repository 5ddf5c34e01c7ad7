"""EfficientNet, EfficientNet-Lite and EfficientNetV2.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv:1905.11946v5, table 1
(b0) and section 3.3 (b1 to b7 are b0 with more maps and more blocks).
Tan and Le 2021, "EfficientNetV2: smaller models and faster training", arXiv:2104.00298v3, table 4 (v2_s). The rows of
v2_m, v2_l and of v2_b0, which v2_b1 to v2_b3 scale, are in the authors' implementation, google/automl; those of Lite
(no attention, ReLU6, ends not scaled) in tensorflow/tpu.

Differs from the papers: b0 to b7 and v2_s, v2_m, v2_l pad equally on all sides, and b0 to b4 take batch norm's epsilon
1e-5, as torchvision does. Lite and v2_b0 to v2_b3 are the authors', as in timm (``tf_...``) and Keras: TensorFlow's
SAME padding and epsilon 1e-3. Keras's networks of the other names are these with ``padding="SAME", epsilon=1e-3``.

The stem is the first convolution; each stage starts where the resolution halves; the last one ends with the 1x1
convolution before pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import IMAGENET_MEAN, IMAGENET_STD, ModelInfo, Variant, named_rows
from cnnjax.nn import BatchNorm, Conv, StochasticDepth, he_fan_out
from cnnjax.nn.activation import relu6, silu
from cnnjax.nn.building import (
    ClassifierHead,
    ConvNorm,
    InvertedResidual,
    Stage,
    check_images,
    conv_padding,
    round_width,
    split_stages,
)
from cnnjax.nn.initializers import he_fan_in
from cnnjax.nn.inverted_residual import ModuleDef, PaddingRule


class Row(NamedTuple):
    """A line of the papers' tables: MBConv or Fused-MBConv, expansion, kernel, stride, channels, layers."""

    fused: bool
    expansion: int
    kernel: int
    strides: int
    features: int
    layers: int


# fmt: off
B0 = (  # arXiv:1905.11946, table 1
    Row(False, 1, 3, 1, 16, 1), Row(False, 6, 3, 2, 24, 2), Row(False, 6, 5, 2, 40, 2), Row(False, 6, 3, 2, 80, 3),
    Row(False, 6, 5, 1, 112, 3), Row(False, 6, 5, 2, 192, 4), Row(False, 6, 3, 1, 320, 1),
)
V2_S = (  # arXiv:2104.00298, table 4
    Row(True, 1, 3, 1, 24, 2), Row(True, 4, 3, 2, 48, 4), Row(True, 4, 3, 2, 64, 4), Row(False, 4, 3, 2, 128, 6),
    Row(False, 6, 3, 1, 160, 9), Row(False, 6, 3, 2, 256, 15),
)
V2_M = (
    Row(True, 1, 3, 1, 24, 3), Row(True, 4, 3, 2, 48, 5), Row(True, 4, 3, 2, 80, 5), Row(False, 4, 3, 2, 160, 7),
    Row(False, 6, 3, 1, 176, 14), Row(False, 6, 3, 2, 304, 18), Row(False, 6, 3, 1, 512, 5),
)
V2_L = (
    Row(True, 1, 3, 1, 32, 4), Row(True, 4, 3, 2, 64, 7), Row(True, 4, 3, 2, 96, 7), Row(False, 4, 3, 2, 192, 10),
    Row(False, 6, 3, 1, 224, 19), Row(False, 6, 3, 2, 384, 25), Row(False, 6, 3, 1, 640, 7),
)
V2_B0 = (
    Row(True, 1, 3, 1, 16, 1), Row(True, 4, 3, 2, 32, 2), Row(True, 4, 3, 2, 48, 2), Row(False, 4, 3, 2, 96, 3),
    Row(False, 6, 3, 1, 112, 5), Row(False, 6, 3, 2, 192, 8),
)

# Width and depth multipliers, dropout rate; then crop in pixels, parameters, multiply-adds (1e9) and top-1 (%) of
# torchvision's V1 weights.
V1 = {
    "efficientnet_b0": (1.0, 1.0, 0.2, 224, 5_288_548, 0.386, 77.692),
    "efficientnet_b1": (1.0, 1.1, 0.2, 240, 7_794_184, 0.687, 78.642),
    "efficientnet_b2": (1.1, 1.2, 0.3, 288, 9_109_994, 1.088, 80.608),
    "efficientnet_b3": (1.2, 1.4, 0.3, 300, 12_233_232, 1.827, 82.008),
    "efficientnet_b4": (1.4, 1.8, 0.4, 380, 19_341_616, 4.394, 83.384),
    "efficientnet_b5": (1.6, 2.2, 0.4, 456, 30_389_784, 10.266, 83.444),
    "efficientnet_b6": (1.8, 2.6, 0.5, 528, 43_040_704, 19.068, 84.008),
    "efficientnet_b7": (2.0, 3.1, 0.5, 600, 66_347_960, 37.746, 84.122),
}
# Rows, maps of the stem, dropout rate; then as above, with the mean and deviation that the weights expect.
HALF = (0.5, 0.5, 0.5)
V2 = {
    "efficientnet_v2_s": (V2_S, 24, 0.2, 384, 21_458_488, 8.366, 84.228, IMAGENET_MEAN, IMAGENET_STD),
    "efficientnet_v2_m": (V2_M, 24, 0.3, 480, 54_139_356, 24.582, 85.112, IMAGENET_MEAN, IMAGENET_STD),
    "efficientnet_v2_l": (V2_L, 32, 0.4, 480, 118_515_272, 56.080, 85.808, HALF, HALF),
}
# Width and depth multipliers, dropout rate; pixels and parameters.
LITE = {
    "efficientnet_lite0": (1.0, 1.0, 0.2, 224, 4_652_008),
    "efficientnet_lite1": (1.0, 1.1, 0.2, 240, 5_416_680),
    "efficientnet_lite2": (1.1, 1.2, 0.3, 260, 6_092_072),
    "efficientnet_lite3": (1.2, 1.4, 0.3, 300, 8_197_096),
    "efficientnet_lite4": (1.4, 1.8, 0.3, 380, 13_006_568),
}
V2_BASE = {
    "efficientnet_v2_b0": (1.0, 1.0, 0.2, 224, 7_139_704),
    "efficientnet_v2_b1": (1.0, 1.1, 0.2, 240, 8_141_052),
    "efficientnet_v2_b2": (1.1, 1.2, 0.2, 260, 10_096_086),
    "efficientnet_v2_b3": (1.2, 1.4, 0.2, 300, 14_358_406),
}
# fmt: on
STEM_FEATURES, LAST_FEATURES = 32, 1280
# Width of the attention's bottleneck, over that of the block's input.
SQUEEZE_RATIO = 0.25

# Variance 2 / kernel area: the authors and timm divide a depthwise kernel's fan-out by its groups, torchvision not.
he_depthwise: Initializer = he_fan_in


class FusedMBConv(nn.Module):
    """An inverted residual whose first two convolutions are one (arXiv:2104.00298, figure 2).

    Without expansion there is a single convolution, and its output is activated.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and may drop the branch.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    expanded_features: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    kernel_size: int = 3
    strides: int = 1
    dilation: int = 1
    padding: PaddingRule = "symmetric"
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        spatial = {
            "kernel_size": (self.kernel_size, self.kernel_size),
            "strides": self.strides,
            "padding": conv_padding(self.padding, self.kernel_size, self.dilation),
            "kernel_dilation": self.dilation,
        }
        if self.expanded_features != x.shape[-1]:
            y = self.conv(self.expanded_features, **spatial, name="expand_conv")(x)
            y = self.activation(self.norm(use_running_average=not train, name="expand_norm")(y))
            y = self.conv(self.features, (1, 1), padding=0, name="project_conv")(y)
            y = self.norm(use_running_average=not train, name="project_norm")(y)
        else:
            y = self.conv(self.features, **spatial, name="project_conv")(x)
            y = self.activation(self.norm(use_running_average=not train, name="project_norm")(y))
        if self.strides == 1 and x.shape[-1] == self.features:
            y = x + StochasticDepth(self.stochastic_depth_rate)(y, train)
        return y


class EfficientNet(nn.Module):
    """EfficientNet: a 3x3 convolution, (fused) inverted residuals, a 1x1 convolution, average pooling, classifier.

    Source: Tan and Le 2019, arXiv:1905.11946, table 1; Tan and Le 2021, arXiv:2104.00298, table 4; differs: see the
    head of this file.

    Attributes:
      rows: lines of the paper's table, scaled.
      stem_features, last_features: width of the first and of the last convolution.
      attention: squeeze and excite in the blocks that are not fused.
      dropout_rate: before the classifier.
      stochastic_depth_rate: times i / n, the probability to drop block i of n, counted from 0.
      output_stride: pixels of the image for each pixel of the last feature map, 32 or less; stages beyond it are
        dilated.
      padding: "symmetric" (PyTorch's rule) or "SAME" (TensorFlow's).
      momentum, epsilon: of batch norm.
      depthwise_init: initial values of depthwise kernels.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop out.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, last_features] when ``num_classes`` is 0.
    """

    rows: tuple[Row, ...]
    stem_features: int
    last_features: int
    num_classes: int = 1000
    attention: bool = True
    activation: Callable[[jax.Array], jax.Array] = silu
    dropout_rate: float = 0.2
    stochastic_depth_rate: float = 0.2
    output_stride: int = 32
    padding: PaddingRule = "symmetric"
    momentum: float = 0.9
    epsilon: float = 1e-5
    depthwise_init: Initializer = he_fan_out
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        """Name the columns of the rows."""
        self.rows = named_rows(Row, self.rows)
        super().__post_init__()

    def blocks(self) -> list[dict[str, Any]]:
        """Return what distinguishes each block: the lines of the table, repeated."""
        total = sum(row.layers for row in self.rows)
        in_features, blocks = self.stem_features, list[dict[str, Any]]()
        for row in self.rows:
            for strides in (row.strides, *[1] * (row.layers - 1)):
                block: dict[str, Any] = {
                    "fused": row.fused,
                    "features": row.features,
                    "expanded_features": in_features * row.expansion,
                    "kernel_size": row.kernel,
                    "strides": strides,
                    "stochastic_depth_rate": self.stochastic_depth_rate * len(blocks) / total,
                }
                if not row.fused:
                    squeeze_features = max(1, int(in_features * SQUEEZE_RATIO)) if self.attention else 0
                    block |= {"squeeze_features": squeeze_features, "depthwise_init": self.depthwise_init}
                blocks.append(block)
                in_features = row.features
        return blocks

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(BatchNorm, axis_name=self.axis_name, momentum=self.momentum, epsilon=self.epsilon, **types)
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": norm,
            "padding": self.padding,
            "activation": self.activation,
        }
        stages: list[list[Callable[..., nn.Module]]] = []
        for stage in split_stages(self.blocks(), output_stride=self.output_stride):
            stages.append([])
            for fields in stage:
                if fields.pop("fused"):
                    stages[-1].append(partial(FusedMBConv, **layers, **fields))
                else:
                    mbconv = partial(InvertedResidual, squeeze_activation=self.activation, **layers, **fields)
                    stages[-1].append(mbconv)
        stages[-1].append(partial(ConvNorm, self.last_features, **layers))
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvNorm(self.stem_features, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        for index, blocks in enumerate(stages, start=1):
            x = stage_class(tuple(blocks), name=f"stage{index}")(x, train)
        return ClassifierHead(
            self.num_classes,
            dropout_rate=self.dropout_rate,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
            **types,
            name="head",
        )(x, train)


def _scaled(
    rows: tuple[Row, ...], width: float, depth: float, *, limit: float = 0.9, scale_ends: bool = True
) -> tuple[Row, ...]:
    """Return ``rows`` with more maps and more layers; without ``scale_ends``, first and last keep their layers."""
    ends = () if scale_ends else (rows[0], rows[-1])
    return tuple(
        row._replace(
            features=round_width(row.features * width, limit=limit),
            layers=row.layers if row in ends else math.ceil(row.layers * depth),
        )
        for row in rows
    )


def _info(paper: str, size: int, num_params: int, **facts: Any) -> ModelInfo:
    return ModelInfo(
        family="efficientnet", paper=paper, num_params=num_params, input_size=(size, size), min_size=1, **facts
    )


# What torchvision resizes to before it takes the centre, and how, where it is not 8/7 and bilinear.
RESIZE_SIZES = {
    **{"efficientnet_b0": 256, "efficientnet_b1": 256, "efficientnet_b2": 288, "efficientnet_b3": 320},
    **{"efficientnet_b4": 384, "efficientnet_b5": 456, "efficientnet_b6": 528, "efficientnet_b7": 600},
    **{"efficientnet_v2_s": 384, "efficientnet_v2_m": 480, "efficientnet_v2_l": 480},
}
BICUBIC = {*(f"efficientnet_b{number}" for number in range(8)), "efficientnet_v2_l"}


def _evaluation(name: str) -> dict[str, Any]:
    interpolation = "bicubic" if name in BICUBIC else "bilinear"
    return {"resize_size": RESIZE_SIZES[name], "interpolation": interpolation}


TAN2019, TAN2021 = "Tan and Le 2019, arXiv:1905.11946", "Tan and Le 2021, arXiv:2104.00298"


def _v1(
    name: str, width: float, depth: float, dropout: float, size: int, num_params: int, gmacs: float, top1: float
) -> Variant:
    rows = _scaled(B0, width, depth)
    fields = {
        "rows": rows,
        "stem_features": round_width(STEM_FEATURES * width),
        "last_features": 4 * rows[-1].features,
        "dropout_rate": dropout,
    }
    if name in ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7"):  # torchvision took them from TensorFlow
        fields |= {"momentum": 0.99, "epsilon": 1e-3}
    facts: dict[str, Any] = {"gmacs": gmacs, "top1": top1, "weights": "torchvision IMAGENET1K_V1"}
    facts |= _evaluation(name)
    return Variant(EfficientNet, fields, _info(f"{TAN2019}, table 1", size, num_params, **facts))


def _v2(
    name: str,
    rows: tuple[Row, ...],
    stem_features: int,
    dropout: float,
    size: int,
    num_params: int,
    gmacs: float,
    top1: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Variant:
    fields = {
        "rows": rows,
        "stem_features": stem_features,
        "last_features": LAST_FEATURES,
        "dropout_rate": dropout,
        "epsilon": 1e-3,
    }
    weights = "torchvision IMAGENET1K_V1"
    facts: dict[str, Any] = {"gmacs": gmacs, "top1": top1, "weights": weights, "mean": mean, "std": std}
    facts |= _evaluation(name)
    paper = f"{TAN2021}, {'table 4' if rows == V2_S else 'section 3.3'}"
    return Variant(EfficientNet, fields, _info(paper, size, num_params, **facts))


TENSORFLOW = {"padding": "SAME", "epsilon": 1e-3, "depthwise_init": he_depthwise}


def _lite(width: float, depth: float, dropout: float, size: int, num_params: int) -> Variant:
    fields = {
        "rows": _scaled(B0, width, depth, scale_ends=False),
        "stem_features": STEM_FEATURES,
        "last_features": LAST_FEATURES,
        "attention": False,
        "activation": relu6,
        "dropout_rate": dropout,
    }
    paper = f"{TAN2019}, table 1; EfficientNet-Lite, tensorflow/tpu"
    return Variant(EfficientNet, fields | TENSORFLOW, _info(paper, size, num_params, mean=HALF, std=HALF))


def _v2_base(width: float, depth: float, dropout: float, size: int, num_params: int) -> Variant:
    fields = {
        "rows": _scaled(V2_B0, width, depth, limit=0),
        "stem_features": round_width(STEM_FEATURES * width, limit=0),
        "last_features": round_width(LAST_FEATURES * width, limit=0),
        "dropout_rate": dropout,
    }
    return Variant(EfficientNet, fields | TENSORFLOW, _info(f"{TAN2021}, section 3.3", size, num_params))


VARIANTS = (
    {name: _v1(name, *row) for name, row in V1.items()}
    | {name: _v2(name, *row) for name, row in V2.items()}
    | {name: _lite(*row) for name, row in LITE.items()}
    | {name: _v2_base(*row) for name, row in V2_BASE.items()}
)
