"""VGG: 3x3 convolutions only, in five stages.

Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition", arXiv:1409.1556v6,
table 1, columns A, B, D and E.

Differs from the paper, as torchvision does: the ``_bn`` variants normalise after each convolution (Ioffe and Szegedy
2015, arXiv:1502.03167) and keep its bias; kernels start as He et al. 2015 propose; maps of images of another size are
averaged to the 7x7 of the dense layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, he_fan_out, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import DenseHead, check_images


class Row(NamedTuple):
    """A column of table 1: convolutions a stage, then parameters, multiply-adds (1e9) and top-1 (%) of torchvision."""

    stage_sizes: tuple[int, ...]
    batch_norm: bool
    num_params: int
    gmacs: float
    top1: float


# fmt: off
TABLE1 = {
    "vgg11":    Row((1, 1, 2, 2, 2), False, 132_863_336, 7.609, 69.020),
    "vgg11_bn": Row((1, 1, 2, 2, 2), True,  132_868_840, 7.609, 70.370),
    "vgg13":    Row((2, 2, 2, 2, 2), False, 133_047_848, 11.308, 69.928),
    "vgg13_bn": Row((2, 2, 2, 2, 2), True,  133_053_736, 11.308, 71.586),
    "vgg16":    Row((2, 2, 3, 3, 3), False, 138_357_544, 15.470, 71.592),
    "vgg16_bn": Row((2, 2, 3, 3, 3), True,  138_365_992, 15.470, 73.360),
    "vgg19":    Row((2, 2, 4, 4, 4), False, 143_667_240, 19.632, 72.376),
    "vgg19_bn": Row((2, 2, 4, 4, 4), True,  143_678_248, 19.632, 74.218),
}
# fmt: on
# Table 1: kernels a convolution in each stage.
FEATURES = (64, 128, 256, 512, 512)
# Height and width of the maps that the dense layers take.
POOL_SIZE = 7


class Stage(nn.Module):
    """3x3 convolutions of equal width, each rectified, and a 2x2 max pool.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height // 2, width // 2, features].
    """

    features: int
    num_convs: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm] | None
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        for index in range(1, self.num_convs + 1):
            x = self.conv(self.features, (3, 3), padding=1, name=f"conv{index}")(x)
            if self.norm is not None:
                x = self.norm(use_running_average=not train, name=f"norm{index}")(x)
            x = self.activation(x)
        return max_pool(x, 2)


class VGG(nn.Module):
    """VGG: stages of 3x3 convolutions, two hidden dense layers, classifier.

    Source: Simonyan and Zisserman 2014, arXiv:1409.1556, table 1; differs: see the head of this file.

    Attributes:
      stage_sizes: convolutions a stage; each stage halves the resolution at its end.
      batch_norm: normalise after each convolution.
      features: width of each stage.
      pool_size: height and width of the maps that the dense layers take; others are averaged to it.
      dense_features: units of the hidden dense layers.
      dropout_rate: of the hidden layers' outputs.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop units.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 4096] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    stage_sizes: tuple[int, ...]
    batch_norm: bool = False
    num_classes: int = 1000
    features: tuple[int, ...] = FEATURES
    pool_size: int = POOL_SIZE
    dense_features: tuple[int, int] = (4096, 4096)
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=2 ** len(self.stage_sizes))
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=he_fan_out, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types) if self.batch_norm else None
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = images
        for index, (features, num_convs) in enumerate(zip(self.features, self.stage_sizes, strict=True), start=1):
            x = stage_class(features, num_convs, conv, norm, self.activation, name=f"stage{index}")(x, train)
        return DenseHead(
            self.num_classes,
            self.dense_features,
            self.pool_size,
            (0.0, self.dropout_rate, self.dropout_rate),
            self.activation,
            kernel_init=nn.initializers.normal(0.01),
            **types,
            name="head",
        )(x, train)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="vgg",
        paper="Simonyan and Zisserman 2014, arXiv:1409.1556, table 1",
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights="torchvision IMAGENET1K_V1",
    )
    return Variant(VGG, {"stage_sizes": row.stage_sizes, "batch_norm": row.batch_norm}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE1.items()}
