"""Xception.

Chollet 2016, "Xception: deep learning with depthwise separable convolutions", arXiv:1610.02357v3, figure 5.

As in timm (``legacy_xception``): batch normalisation with epsilon 1e-5, and max pools padded by one on each side. Keras
has epsilon 1e-3 and TensorFlow's padding in these pools: ``norm_epsilon=1e-3, pool_padding="SAME"``. The paper drops
50 % before the classifier, both libraries nothing, which is the default here.
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
from cnnjax.nn.building import ClassifierHead, Stage, check_images


class Row(NamedTuple):
    """A residual module of figure 5: features of its separable convolutions, stride of its pool and shortcut."""

    features: tuple[int, ...]
    strides: int = 1
    activate_first: bool = True


STEM = (32, 64)
# Figure 5, entry flow (stages 1 and 2 and the first of stage 3), middle flow and exit flow.
FIGURE5 = (
    (Row((128, 128), 2, activate_first=False),),
    (Row((256, 256), 2),),
    (Row((728, 728), 2), *(Row((728, 728, 728)),) * 8),
    (Row((728, 1024), 2),),
)
# The separable convolutions behind the last module.
EXIT = (1536, 2048)


class SeparableConvs(nn.Module):
    """Apply 3x3 convolutions channel by channel, 1x1 convolutions and normalisations; activate before or after each.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height, width, features[-1]].
    """

    features: tuple[int, ...]
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the layers to ``x``, with an activation after each."""
        return self.apply_all(x, train, activate_first=False, activate_last=True)

    def apply_all(self, x: jax.Array, train: bool, *, activate_first: bool, activate_last: bool) -> jax.Array:
        """Apply the layers to ``x``, with activations between them and where asked."""
        for number, features in enumerate(self.features, start=1):
            if number > 1 or activate_first:
                x = self.activation(x)
            channels = x.shape[-1]
            x = self.conv(channels, (3, 3), padding=1, feature_group_count=channels, name=f"depthwise_conv{number}")(x)
            x = self.conv(features, (1, 1), padding=0, name=f"pointwise_conv{number}")(x)
            x = self.norm(use_running_average=not train, name=f"norm{number}")(x)
        return self.activation(x) if activate_last else x


class ResidualModule(SeparableConvs):
    """Separable convolutions, activated before each, and a max pool where the stride is 2; plus a shortcut.

    Source: Chollet 2016, arXiv:1610.02357, figure 5; differs: nothing.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features[-1]].
    """

    strides: int = 1
    activate_first: bool = True
    pool_padding: int | str = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the module to ``x``."""
        y = self.apply_all(x, train, activate_first=self.activate_first, activate_last=False)
        if self.strides != 1:
            y = max_pool(y, 3, self.strides, padding=self.pool_padding)
        if self.strides != 1 or x.shape[-1] != self.features[-1]:
            x = self.conv(self.features[-1], (1, 1), strides=self.strides, padding=0, name="proj_conv")(x)
            x = self.norm(use_running_average=not train, name="proj_norm")(x)
        return x + y


class Stem(nn.Module):
    """Two 3x3 convolutions without padding, the first of stride 2.

    Args:
      x: float[batch, height, width, channels].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, (height - 1) // 2 - 2, (width - 1) // 2 - 2, 64].
    """

    conv: Callable[..., Any]
    norm: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stem to ``x``."""
        for number, (features, strides) in enumerate(zip(STEM, (2, 1), strict=True), start=1):
            x = self.conv(features, (3, 3), strides=strides, padding=0, name=f"conv{number}")(x)
            x = self.activation(self.norm(use_running_average=not train, name=f"norm{number}")(x))
        return x


class Xception(nn.Module):
    """Xception: stem, stages of residual modules of separable convolutions, global average pooling, classifier.

    Source: Chollet 2016, arXiv:1610.02357, figure 5; differs: see the head of this file.

    Attributes:
      norm_epsilon: added to the variance in batch normalisation.
      pool_padding: of the modules' max pools, as `cnnjax.nn.max_pool` takes it.
      dropout_rate: before the classifier; 0.5 in the paper.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 7 pixels or more.
      train: apply dropout, normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 2048] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    num_classes: int = 1000
    norm_epsilon: float = 1e-5
    pool_padding: int | str = 1
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the stem."""
        return 7

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": partial(BatchNorm, epsilon=self.norm_epsilon, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(**layers, name="stem")(images, train)
        for index, rows in enumerate(FIGURE5, start=1):
            blocks: list[Callable[..., nn.Module]] = [
                partial(ResidualModule, **row._asdict(), pool_padding=self.pool_padding, **layers) for row in rows
            ]
            if index == len(FIGURE5):
                blocks.append(partial(SeparableConvs, EXIT, **layers))
            x = stage_class(tuple(blocks), name=f"stage{index}")(x, train)
        return ClassifierHead(self.num_classes, self.dropout_rate, **types, name="head")(x, train)


VARIANTS = {
    "xception": Variant(
        Xception,
        {},
        ModelInfo(
            family="xception",
            paper="Chollet 2016, arXiv:1610.02357, figure 5",
            num_params=22_855_952,
            input_size=(299, 299),
            min_size=7,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    ),
}
