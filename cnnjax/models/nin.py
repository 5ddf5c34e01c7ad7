"""Network in network: small multilayer perceptrons slide over the image, and averages replace the dense layers.

Lin, Chen and Yan 2013, "Network in network", arXiv:1312.4400v3, sections 3 and 4.

The paper gives the principle (equation 2: a convolution, then two 1x1 convolutions, all rectified) and no table; the
tables here are those of the authors' published networks for Caffe, whose pools round up. On CIFAR-10 the second pool
averages. ``num_classes=0`` returns the spatial averages of what the last 1x1 convolution would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import Conv, avg_pool, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ConvHead, check_images
from cnnjax.nn.initializers import Drawn

PAPER = "Lin et al. 2013, arXiv:1312.4400"


class Mlpconv(NamedTuple):
    """A block: the first convolution, then widths of 1x1 convolutions; the pool before it, 3x3 with stride 2."""

    features: tuple[int, ...]
    kernel: int
    strides: int
    padding: int
    pool: Callable[..., jax.Array] | None
    dropout: bool = False


# The last 1x1 convolution of the last block is the classifier, one map per class.
IMAGENET = (
    Mlpconv((96, 96, 96), 11, 4, 0, None),
    Mlpconv((256, 256, 256), 5, 1, 2, max_pool),
    Mlpconv((384, 384, 384), 3, 1, 1, max_pool),
    Mlpconv((1024, 1024), 3, 1, 1, max_pool, dropout=True),
)
CIFAR10 = (
    Mlpconv((192, 160, 96), 5, 1, 2, None),
    Mlpconv((192, 192, 192), 5, 1, 2, max_pool, dropout=True),
    Mlpconv((192, 192), 3, 1, 1, avg_pool, dropout=True),
)


class Stage(nn.Module):
    """Pool, drop out, and apply an mlpconv layer (equation 2).

    Args:
      x: float[batch, height, width, in_features].
      train: True applies dropout.
    Returns:
      float[batch, out_height, out_width, features[-1]].
    """

    row: Mlpconv
    dropout_rate: float
    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        row = self.row
        if row.pool is not None:
            x = row.pool(x, 3, 2, ceil_mode=True)
        if row.dropout:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        first = {"kernel_size": (row.kernel, row.kernel), "strides": row.strides, "padding": row.padding}
        for index, features in enumerate(row.features, start=1):
            shape = first if index == 1 else {"kernel_size": (1, 1)}
            x = self.activation(self.conv(features, **shape, name=f"conv{index}")(x))
        return x


class NiN(nn.Module):
    """Network in network: stages of mlpconv layers, the last of which ends in one map per class, averaged over space.

    Source: Lin et al. 2013, arXiv:1312.4400, figure 2; differs: see the head of this file.

    Attributes:
      stages: an mlpconv layer each.
      dropout_rate: between stages, where their rows say so.
      kernel_init: normal with standard deviation 0.05, as in most layers of the published networks.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean per channel.
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits, before softmax, none of them negative; float32[batch, features] when
      ``num_classes`` is 0.
    Raises:
      ValueError: images too small; the smallest legal size is in the message and in ``model_info(name).min_size``.
    """

    stages: tuple[Mlpconv, ...]
    num_classes: int = 1000
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    kernel_init: Initializer = Drawn(nn.initializers.normal, (0.05,))
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: each pool leaves a position for the stage after it."""
        size = 1
        for row in reversed(self.stages):
            size = (size - 1) * row.strides + row.kernel - 2 * row.padding
            size = 2 * size if row.pool is not None else size
        return size

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": self.kernel_init}
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
        x = images
        for index, row in enumerate(self.stages, start=1):
            stage = stage_class(row, self.dropout_rate, partial(Conv, **types), self.activation, name=f"stage{index}")
            x = stage(x, train)
        return ConvHead(self.num_classes, activation=self.activation, **types, name="head")(x, train)


VARIANTS = {
    "nin_imagenet": Variant(
        NiN,
        {"stages": IMAGENET},
        ModelInfo(
            family="nin",
            paper=f"{PAPER}, section 3",
            num_params=7_595_176,
            min_size=39,
            top1=59.36,
            weights="the authors', for Caffe",
        ),
    ),
    "nin_cifar10": Variant(
        NiN,
        {"stages": CIFAR10},
        ModelInfo(
            family="nin",
            paper=f"{PAPER}, section 4.2",
            num_params=966_986,
            num_classes=10,
            input_size=(32, 32),
            min_size=4,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
        ),
    ),
}
