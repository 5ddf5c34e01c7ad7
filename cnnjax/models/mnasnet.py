"""MnasNet-B1 at four widths.

Tan, Chen, Pang, Vasudevan, Sandler, Howard and Le 2018, "MnasNet: platform-aware neural architecture search for
mobile", arXiv:1807.11626v3, table 1. Figure 7 draws A1; B1, found without squeeze-and-excitation in the
search space, is laid out in the authors' implementation, which torchvision follows.

Differs from that implementation, as torchvision does: convolutions pad equally on all sides (TensorFlow's SAME there),
and batch norm has epsilon 1e-5 (1e-3 there).

The stem is the first convolution; each stage starts where the resolution halves; the last one ends with the 1x1
convolution before pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant, named_rows
from cnnjax.nn import BatchNorm, Conv, he_fan_out
from cnnjax.nn.activation import relu
from cnnjax.nn.building import (
    ClassifierHead,
    ConvNorm,
    InvertedResidual,
    Stage,
    check_images,
    round_width,
    split_stages,
)
from cnnjax.nn.inverted_residual import PaddingRule


class Row(NamedTuple):
    """Blocks of one shape: expansion, kernel, maps, repetitions and the first repetition's stride."""

    expansion: int
    kernel: int
    features: int
    repeats: int
    strides: int


B1 = (
    Row(1, 3, 16, 1, 1),
    Row(3, 3, 24, 3, 2),
    Row(3, 5, 40, 3, 2),
    Row(6, 5, 80, 3, 2),
    Row(6, 3, 96, 2, 1),
    Row(6, 5, 192, 4, 2),
    Row(6, 3, 320, 1, 1),
)
STEM_FEATURES, LAST_FEATURES = 32, 1280

# Width multiplier; parameters, multiply-adds (1e9) and top-1 (%) are torchvision's, V1 weights; and the size
# (pixels) to which it resizes images for that.
WIDTHS = {
    "mnasnet0_5": (0.5, 2_218_512, 0.104, 67.734, 256),
    "mnasnet0_75": (0.75, 3_170_208, 0.215, 71.180, 232),
    "mnasnet1_0": (1.0, 4_383_312, 0.314, 73.456, 256),
    "mnasnet1_3": (1.3, 6_282_256, 0.526, 76.506, 232),
}


class MNASNet(nn.Module):
    """MnasNet-B1: a 3x3 convolution, inverted residuals, a 1x1 convolution, global average pooling, classifier.

    Source: Tan et al. 2018, arXiv:1807.11626, the authors' implementation of B1; differs: see the head of this file.

    Attributes:
      rows: blocks of one shape each, in the order of depth.
      width_multiplier: factor of all widths but the last one.
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
    rows: tuple[Row, ...] = B1
    width_multiplier: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = relu
    dropout_rate: float = 0.2
    output_stride: int = 32
    padding: PaddingRule = "symmetric"
    epsilon: float = 1e-5
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        """Name the columns of the rows."""
        self.rows = named_rows(Row, self.rows)
        super().__post_init__()

    def blocks(self) -> list[dict[str, Any]]:
        """Return the shape of each block: the rows, repeated and scaled."""
        in_features, blocks = round_width(STEM_FEATURES * self.width_multiplier), list[dict[str, Any]]()
        for row in self.rows:
            for strides in (row.strides, *[1] * (row.repeats - 1)):
                features = round_width(row.features * self.width_multiplier)
                blocks.append(
                    {
                        "features": features,
                        "expanded_features": in_features * row.expansion,
                        "kernel_size": row.kernel,
                        "strides": strides,
                    }
                )
                in_features = features
        return blocks

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, momentum=0.9997, epsilon=self.epsilon, **types),
            "padding": self.padding,
            "activation": self.activation,
        }
        stages: list[list[Callable[..., nn.Module]]] = [
            [partial(InvertedResidual, **layers, **fields) for fields in stage]
            for stage in split_stages(self.blocks(), output_stride=self.output_stride)
        ]
        stages[-1].append(partial(ConvNorm, LAST_FEATURES, **layers))
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        stem_features = round_width(STEM_FEATURES * self.width_multiplier)
        x = ConvNorm(stem_features, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        for index, blocks in enumerate(stages, start=1):
            x = stage_class(tuple(blocks), name=f"stage{index}")(x, train)
        return ClassifierHead(
            self.num_classes,
            dropout_rate=self.dropout_rate,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_out", "uniform"),
            **types,
            name="head",
        )(x, train)


def _variant(width_multiplier: float, num_params: int, gmacs: float, top1: float, resize_size: int) -> Variant:
    info = ModelInfo(
        family="mnasnet",
        paper="Tan et al. 2018, arXiv:1807.11626, MnasNet-B1",
        num_params=num_params,
        min_size=1,
        gmacs=gmacs,
        top1=top1,
        weights="torchvision IMAGENET1K_V1",
        resize_size=resize_size,
    )
    return Variant(MNASNet, {"width_multiplier": width_multiplier}, info)


VARIANTS = {name: _variant(*row) for name, row in WIDTHS.items()}
