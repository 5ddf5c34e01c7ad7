"""SqueezeNet: AlexNet's accuracy with fifty times fewer parameters.

Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
and <0.5MB model size", arXiv:1602.07360v4, table 1, without bypasses; version 1.1 is the authors' later release, with
2.4 times fewer multiply-adds.

Differs from the paper, as torchvision does: 224-pixel images (the paper's 111x111 maps need 227), and kernels start
from He's uniform distribution.

``num_classes=0`` returns the spatial averages of what the last 1x1 convolution would have seen.
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
from cnnjax.nn import Conv, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ConvHead, check_images


class Row(NamedTuple):
    """A version: stem, 1x1 filters that squeeze each fire module of each stage; torchvision's figures."""

    stem_features: int
    stem_kernel: int
    squeeze_features: tuple[tuple[int, ...], ...]
    num_params: int
    gmacs: float
    top1: float
    min_size: int


# fmt: off
TABLE1 = {
    # Pools after conv1, fire4 and fire8.
    "squeezenet1_0": Row(96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,)), 1_248_424, 0.819, 58.092, 21),
    # Pools after conv1, fire3 and fire5.
    "squeezenet1_1": Row(64, 3, ((16, 16), (32, 32), (48, 48, 64, 64)), 1_235_496, 0.349, 58.178, 17),
}
# fmt: on
# Filters of each expanding layer a squeezing filter: squeeze ratio 0.125 over both (section 5.1).
EXPANSION = 4


class Fire(nn.Module):
    """Squeeze by 1x1 filters, then expand by 1x1 and 3x3 filters side by side (figure 1).

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, height, width, 8 * squeeze_features], the 1x1 filters' maps first.
    """

    squeeze_features: int
    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the module to ``x``."""
        expanded = EXPANSION * self.squeeze_features
        x = self.activation(self.conv(self.squeeze_features, (1, 1), name="squeeze_conv")(x))
        small = self.conv(expanded, (1, 1), name="expand_conv1")(x)
        large = self.conv(expanded, (3, 3), padding=1, name="expand_conv2")(x)
        return self.activation(jnp.concatenate([small, large], axis=-1))


class Stem(nn.Module):
    """Convolution and max pool of stride 2 each; the pool rounds up."""

    features: int
    kernel: int
    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[batch, height, width, channels] to about a quarter of the height and width."""
        x = self.conv(self.features, (self.kernel, self.kernel), strides=2, padding=0, name="conv1")(x)
        return max_pool(self.activation(x), 3, 2, ceil_mode=True)


class Stage(nn.Module):
    """Fire modules of one resolution, after a 3x3 max pool of stride 2 that rounds up (not in the first stage)."""

    squeeze_features: tuple[int, ...]
    pool: bool
    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the stage to ``x``."""
        x = max_pool(x, 3, 2, ceil_mode=True) if self.pool else x
        for index, features in enumerate(self.squeeze_features, start=1):
            x = Fire(features, self.conv, self.activation, name=f"block{index}")(x)
        return x


class SqueezeNet(nn.Module):
    """SqueezeNet: stem, stages of fire modules, one map per class averaged over space.

    Source: Iandola et al. 2016, arXiv:1602.07360, table 1; differs: see the head of this file.

    Attributes:
      stem_features, stem_kernel: filters of the first convolution and their size.
      squeeze_features: 1x1 filters at the entrance of each fire module, a tuple a stage.
      dropout_rate: of the classifier's input.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 21 pixels or more (17 in
        version 1.1).
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits, before softmax, none of them negative; float32[batch, 512] when
      ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    stem_features: int
    stem_kernel: int
    squeeze_features: tuple[tuple[int, ...], ...]
    num_classes: int = 1000
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: every pool has two positions or more to choose from."""
        return 2 * (2 ** len(self.squeeze_features) - 1) + self.stem_kernel

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=nn.initializers.he_uniform(), **types)
        stage_class = nn.remat(Stage) if self.remat else Stage

        x = Stem(self.stem_features, self.stem_kernel, conv, self.activation, name="stem")(images)
        for index, features in enumerate(self.squeeze_features, start=1):
            x = stage_class(features, index > 1, conv, self.activation, name=f"stage{index}")(x)
        return ConvHead(
            self.num_classes,
            self.dropout_rate,
            self.activation,
            kernel_init=nn.initializers.normal(0.01),
            **types,
            name="head",
        )(x, train)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="squeezenet",
        paper="Iandola et al. 2016, arXiv:1602.07360, table 1",
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights="torchvision IMAGENET1K_V1",
        min_size=row.min_size,
    )
    fields = ("stem_features", "stem_kernel", "squeeze_features")
    return Variant(SqueezeNet, {field: getattr(row, field) for field in fields}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE1.items()}
