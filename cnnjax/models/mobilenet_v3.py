"""MobileNetV3.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le and Adam 2019, "Searching for MobileNetV3",
arXiv:1905.02244v5, tables 1 and 2.

Differs from the paper, as torchvision does: convolutions pad equally on all sides (TensorFlow's SAME there), batch norm
with epsilon 1e-3 and momentum 0.99, and the last two 1x1 layers, which see one pixel, are dense. Keras's networks of
the same names are these with ``padding="SAME"``.

The stem is the tables' first row; each stage starts where the resolution halves; the last one ends with the 1x1
convolution that the tables list before pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant, named_rows
from cnnjax.nn import BatchNorm, Conv, global_avg_pool, he_fan_out
from cnnjax.nn.activation import hard_sigmoid, hard_swish, relu
from cnnjax.nn.building import ConvNorm, InvertedResidual, Stage, check_images, round_width, split_stages
from cnnjax.nn.inverted_residual import PaddingRule


class Row(NamedTuple):
    """A line "bneck" of table 1 or 2, by the paper's column names; HS: the network's activation, otherwise relu."""

    kernel: int
    exp_size: int
    out: int
    se: bool
    hs: bool
    s: int


# fmt: off
TABLE_1 = (  # MobileNetV3-Large
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
TABLE_2 = (  # MobileNetV3-Small
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)
# fmt: on
STEM_FEATURES = 16
# Width of the last convolution, over that of the last row.
LAST_EXPANSION = 6


class MobileNetV3Head(nn.Module):
    """Average over space, one hidden dense layer, drop out, and classify.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits; float32[batch, hidden_features] when ``num_classes`` is 0.
    """

    num_classes: int
    hidden_features: int
    activation: Callable[[jax.Array], jax.Array]
    dropout_rate: float
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of ``x``."""
        dense = partial(
            nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=nn.initializers.normal(0.01)
        )
        x = self.activation(dense(self.hidden_features, name="dense1")(global_avg_pool(x)))
        if self.num_classes > 0:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = dense(self.num_classes, name="classifier")(x)
        return x.astype(jnp.float32)


class MobileNetV3(nn.Module):
    """MobileNetV3: stem, inverted residuals with attention, a 1x1 convolution, and a classifier of two dense layers.

    Source: Howard et al. 2019, arXiv:1905.02244, tables 1 and 2; differs: see the head of this file.

    Attributes:
      rows: lines "bneck" of the paper's table.
      hidden_features: width of the dense layer before the classifier.
      activation: what the paper calls HS; other rows take relu.
      dropout_rate: before the classifier.
      output_stride: pixels of the image for each pixel of the last feature map, 32 or less; stages beyond it are
        dilated, all of their blocks, as in torchvision's segmentation networks (16).
      padding: "symmetric" (PyTorch's rule) or "SAME" (TensorFlow's).
      epsilon: of batch norm.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop out.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, hidden_features] when ``num_classes`` is 0.
    """

    rows: tuple[Row, ...]
    hidden_features: int
    num_classes: int = 1000
    activation: Callable[[jax.Array], jax.Array] = hard_swish
    dropout_rate: float = 0.2
    output_stride: int = 32
    padding: PaddingRule = "symmetric"
    epsilon: float = 1e-3
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        """Name the columns of the rows."""
        self.rows = named_rows(Row, self.rows)
        super().__post_init__()

    def features(self, images: jax.Array, train: bool = False, taps: Collection[str] = ()) -> dict[str, jax.Array]:
        """Return the outputs of "stem", "stage1", "stage2", ..., and of the blocks in ``taps``, by path.

        For networks built on this one: call it in the compact method of a subclass.

        Args:
          images: as for the network.
          train: as for the network.
          taps: paths of further outputs, such as "stage3/block1".
        """
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, momentum=0.99, epsilon=self.epsilon, **types),
            "padding": self.padding,
        }
        stages: list[list[Callable[..., nn.Module]]] = [
            [partial(InvertedResidual, **fields) for fields in stage]
            for stage in split_stages(
                (layers | self.block_fields(row) for row in self.rows),
                output_stride=self.output_stride,
                dilate_strided_block=True,
            )
        ]
        layers["activation"] = self.activation
        stages[-1].append(partial(ConvNorm, LAST_EXPANSION * self.rows[-1].out, **layers))
        stage_class = nn.remat(Stage, static_argnums=(2, 3)) if self.remat else Stage

        x = ConvNorm(STEM_FEATURES, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        outputs = {"stem": x}
        for index, blocks in enumerate(stages, start=1):
            name = f"stage{index}"
            stage = stage_class(tuple(blocks), name=name)
            if any(tap.startswith(f"{name}/") for tap in taps):
                every = {f"{name}/block{i}": y for i, y in enumerate(stage(x, train, True), start=1)}
                outputs |= {path: every[path] for path in taps if path in every}
                x = every[f"{name}/block{len(every)}"]
            else:
                x = stage(x, train)
            outputs[name] = x
        return outputs

    def block_fields(self, row: Row) -> dict[str, Any]:
        """Return the fields of the block that ``row`` describes."""
        return {
            "features": row.out,
            "expanded_features": row.exp_size,
            "kernel_size": row.kernel,
            "strides": row.s,
            "squeeze_features": round_width(row.exp_size // 4) if row.se else 0,
            "gate": hard_sigmoid,
            "activation": self.activation if row.hs else relu,
        }

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        *_, x = self.features(images, train).values()
        return MobileNetV3Head(
            self.num_classes,
            self.hidden_features,
            self.activation,
            self.dropout_rate,
            self.dtype,
            self.param_dtype,
            name="head",
        )(x, train)


class MobileNetV3Encoder(MobileNetV3):
    """A MobileNetV3 without its head, for networks that label pixels.

    Returns:
      float[batch, height / 8, width / 8, features], the first block's output at that resolution, and float[batch,
      height / output_stride, width / output_stride, last_features], the last map.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:  # type: ignore[override]
        """Return two feature maps of ``images``."""
        # The stem halves the resolution; only the small network's first stage does too.
        early = f"stage{2 if self.rows[0].s == 2 else 3}/block1"
        maps = self.features(images, train, taps=(early,))
        *_, last = maps.values()
        return maps[early], last


def _variant(table: int, rows: tuple[Row, ...], hidden: int, num_params: int, gmacs: float, top1: float) -> Variant:
    info = ModelInfo(
        family="mobilenet_v3",
        paper=f"Howard et al. 2019, arXiv:1905.02244, table {table}",
        num_params=num_params,
        min_size=1,
        gmacs=gmacs,
        top1=top1,
        weights="torchvision IMAGENET1K_V1",
    )
    return Variant(MobileNetV3, {"rows": rows, "hidden_features": hidden}, info)


VARIANTS = {
    "mobilenet_v3_large": _variant(1, TABLE_1, 1280, 5_483_032, 0.217, 74.042),
    "mobilenet_v3_small": _variant(2, TABLE_2, 1024, 2_542_856, 0.057, 67.668),
}
