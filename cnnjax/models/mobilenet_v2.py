"""MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov and Chen 2018, "MobileNetV2: inverted residuals and linear bottlenecks",
arXiv:1801.04381v4, table 2.

Differs from the paper, as torchvision does: convolutions pad equally on all sides (TensorFlow's SAME in the authors'
implementation). Keras's MobileNetV2 is this network with ``padding="SAME"`` and ``epsilon=1e-3``.

The stem is the table's first row; each stage starts where the resolution halves; the last one ends with the 1x1
convolution that the table lists before pooling.
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
from cnnjax.nn.activation import relu6
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
    """A line "bottleneck" of table 2: expansion, maps, repetitions and the first repetition's stride."""

    t: int
    c: int
    n: int
    s: int


TABLE_2 = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
STEM_FEATURES, LAST_FEATURES = 32, 1280


class MobileNetV2(nn.Module):
    """MobileNetV2: a 3x3 convolution, inverted residuals, a 1x1 convolution, global average pooling, classifier.

    Source: Sandler et al. 2018, arXiv:1801.04381, table 2; differs: see the head of this file.

    Attributes:
      rows: lines "bottleneck" of table 2.
      width_multiplier: factor of all widths, but of the last one only where it widens (section 6.1).
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
    rows: tuple[Row, ...] = TABLE_2
    width_multiplier: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = relu6
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
            for strides in (row.s, *[1] * (row.n - 1)):
                features = round_width(row.c * self.width_multiplier)
                blocks.append(
                    {"features": features, "expanded_features": in_features * row.t, "strides": strides},
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
            "norm": partial(BatchNorm, axis_name=self.axis_name, epsilon=self.epsilon, **types),
            "padding": self.padding,
            "activation": self.activation,
        }
        stages: list[list[Callable[..., nn.Module]]] = [
            [partial(InvertedResidual, **layers, **fields) for fields in stage]
            for stage in split_stages(self.blocks(), output_stride=self.output_stride)
        ]
        last_features = round_width(LAST_FEATURES * max(1.0, self.width_multiplier))
        stages[-1].append(partial(ConvNorm, last_features, **layers))
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        stem_features = round_width(STEM_FEATURES * self.width_multiplier)
        x = ConvNorm(stem_features, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        for index, blocks in enumerate(stages, start=1):
            x = stage_class(tuple(blocks), name=f"stage{index}")(x, train)
        return ClassifierHead(
            self.num_classes,
            dropout_rate=self.dropout_rate,
            kernel_init=nn.initializers.normal(0.01),
            **types,
            name="head",
        )(x, train)


VARIANTS = {
    "mobilenet_v2": Variant(
        MobileNetV2,
        {},
        ModelInfo(
            family="mobilenet_v2",
            paper="Sandler et al. 2018, arXiv:1801.04381, table 2",
            num_params=3_504_872,
            min_size=1,
            gmacs=0.301,
            top1=71.878,
            weights="torchvision IMAGENET1K_V1",
        ),
    ),
}
