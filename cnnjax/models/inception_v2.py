"""Inception v2 as the batch normalisation paper has it (BN-Inception).

Ioffe and Szegedy 2015, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
arXiv:1502.03167v3, figure 5 (appendix).

The figure contradicts itself in modules 4c to 4e, where the filters listed sum to 608 outputs, 608 and 1056, not to its
576, 576 and 1024. Here the filters listed count, as in the widespread Caffe model and its PyTorch port (11,295,240
parameters). As there, convolutions have biases though batch normalisation follows, padding is symmetric, pools round
up, average pools count their padding, and there are no auxiliary classifiers. The pools beside convolutions of stride 2
keep a last window that starts on an odd map's last pixel, so that both branches fit whatever the size of the images; at
even sizes this changes nothing. The paper's first convolution is separable, with a depth multiplier of 8 (section 4.2);
the ports' is a plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant, named_rows
from cnnjax.nn import BatchNorm, Conv, avg_pool, max_pool, torch_uniform
from cnnjax.nn.activation import relu
from cnnjax.nn.building import Branches, ClassifierHead, ConvChain, ConvLayer, Layer, Stage, check_images


class Module(NamedTuple):
    """A row of figure 5: features of the convolutions; no 1x1 branch and no projection (0) where the stride is 2."""

    conv1: int
    reduce3: int
    conv3: int
    reduce_double3: int
    double3: int
    pool: Literal["avg", "max", "pass"]
    pool_proj: int


# fmt: off
# Figure 5, the modules by stage: (3a, 3b), (3c, 4a to 4d), (4e, 5a, 5b).
FIGURE5 = (
    (
        Module(64, 64, 64, 64, 96, "avg", 32),
        Module(64, 64, 96, 64, 96, "avg", 64),
    ),
    (
        Module(0, 128, 160, 64, 96, "pass", 0),
        Module(224, 64, 96, 96, 128, "avg", 128),
        Module(192, 96, 128, 96, 128, "avg", 128),
        Module(160, 128, 160, 128, 160, "avg", 128),
        Module(96, 128, 192, 160, 192, "avg", 128),
    ),
    (
        Module(0, 128, 192, 192, 256, "pass", 0),
        Module(352, 192, 320, 160, 224, "avg", 128),
        Module(352, 192, 320, 192, 224, "max", 128),
    ),
)
# fmt: on
POOLS = {
    "avg": partial(avg_pool, window=3, strides=1, padding=1),
    "max": partial(max_pool, window=3, strides=1, padding=1),
    "pass": partial(max_pool, window=3, strides=2, padding=((0, 2), (0, 2))),
}


def module_branches(row: Module) -> tuple[tuple[Layer, ...], ...]:
    """Return the branches of a module; without a 1x1 branch the 3x3 convolutions and the pool have stride 2."""
    strides = 1 if row.conv1 else 2
    pool = POOLS[row.pool]
    return (
        *(((ConvLayer(row.conv1),),) if row.conv1 else ()),
        (ConvLayer(row.reduce3), ConvLayer(row.conv3, 3, strides)),
        (ConvLayer(row.reduce_double3), ConvLayer(row.double3, 3), ConvLayer(row.double3, 3, strides)),
        (pool, ConvLayer(row.pool_proj)) if row.pool_proj else (pool,),
    )


class InceptionV2(nn.Module):
    """BN-Inception: stem, stages of Inception modules, global average pooling, classifier.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, figure 5; differs: see the head of this file.

    Attributes:
      rows: the modules of stages 2, 3, ..., as in figure 5.
      dropout_rate: before the classifier; the paper removes it.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 7 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 1024] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    num_classes: int = 1000
    rows: tuple[tuple[Module, ...], ...] = FIGURE5
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        """Name the columns of the rows."""
        self.rows = tuple(named_rows(Module, stage) for stage in self.rows)
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: the second pool needs two."""
        return 7

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, kernel_init=torch_uniform, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvChain((ConvLayer(64, 7, strides=2),), **layers, name="stem")(images, train)
        x = max_pool(x, 3, 2, ceil_mode=True)
        x = ConvChain((ConvLayer(64), ConvLayer(192, 3)), **layers, name="stage1")(x, train)
        x = max_pool(x, 3, 2, ceil_mode=True)
        for index, rows in enumerate(self.rows, start=2):
            blocks = tuple(partial(Branches, module_branches(row), **layers) for row in rows)
            x = stage_class(blocks, name=f"stage{index}")(x, train)
        return ClassifierHead(self.num_classes, self.dropout_rate, **types, name="head")(x, train)


VARIANTS = {
    "inception_v2": Variant(
        InceptionV2,
        {},
        ModelInfo(
            family="inception_v2",
            paper="Ioffe and Szegedy 2015, arXiv:1502.03167, figure 5",
            num_params=11_295_240,
            min_size=7,
        ),
    ),
}
