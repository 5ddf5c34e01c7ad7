"""ZFNet: AlexNet with a finer first layer, found by looking at what its filters had learned.

Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", arXiv:1311.2901v3, figure 3.

The paper prints sizes of maps and no padding; these follow from them: 224 -> 110 (7x7, stride 2, padded by 1) -> 55
(3x3 pool, stride 2, rounded up) -> 26 (5x5, stride 2) -> 13 (pool) -> 13, 13, 13 (3x3, padded by 1) -> 6 (pool). For
"contrast normalized across feature maps" it gives no constants; those of Krizhevsky et al. 2012 are used. Maps of
images of another size are averaged to the 6x6 of the dense layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, local_response_norm, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import DenseHead, check_images
from cnnjax.nn.initializers import Drawn


class Layer(NamedTuple):
    """A convolution of figure 3."""

    features: int
    kernel: int
    strides: int
    padding: int


# Figure 3: layers 1; 2; 3 to 5. Each stage ends with a pool, the first two with a normalisation after it.
STAGES = (
    (Layer(96, 7, 2, 1),),
    (Layer(256, 5, 2, 0),),
    (Layer(384, 3, 1, 1), Layer(384, 3, 1, 1), Layer(256, 3, 1, 1)),
)
POOL_SIZE = 6
# Below this the last pool has less than two positions to choose from.
MIN_SIZE = 47


class Stage(nn.Module):
    """Rectified convolutions, a 3x3 max pool of stride 2 that rounds up, and response normalisation.

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, out_height // 2, out_width // 2, features] of the last convolution.
    """

    layers: tuple[Layer, ...]
    normalise: bool
    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the stage to ``x``."""
        for index, (features, kernel, strides, padding) in enumerate(self.layers, start=1):
            conv = self.conv(features, (kernel, kernel), strides=strides, padding=padding, name=f"conv{index}")
            x = self.activation(conv(x))
        x = max_pool(x, 3, 2, ceil_mode=True)
        return local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0) if self.normalise else x


class ZFNet(nn.Module):
    """ZFNet: five convolutions in three stages, two hidden dense layers, classifier.

    Source: Zeiler and Fergus 2013, arXiv:1311.2901, figure 3; differs: see the head of this file.

    Attributes:
      stages: convolutions a stage.
      pool_size: height and width of the maps that the dense layers take; others are averaged to it.
      dense_features: units of the hidden dense layers.
      dropout_rate: of the hidden layers' outputs.
      kernel_init: the paper says "all weights are initialized to 10^-2": read as a standard deviation, since equal
        weights would stay equal.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean per channel, 47 pixels or more; published for 224.
      train: True drops units.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 4096] when ``num_classes`` is 0.
    Raises:
      ValueError: height or width under 47 pixels.
    """

    num_classes: int = 1000
    stages: tuple[tuple[Layer, ...], ...] = STAGES
    pool_size: int = POOL_SIZE
    dense_features: tuple[int, int] = (4096, 4096)
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    kernel_init: Initializer = Drawn(nn.initializers.normal, (0.01,))
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": self.kernel_init}
        stage_class = nn.remat(Stage) if self.remat else Stage
        x = images
        for index, layers in enumerate(self.stages, start=1):
            normalise = index < len(self.stages)
            x = stage_class(layers, normalise, partial(Conv, **types), self.activation, name=f"stage{index}")(x)
        rates = (0.0, self.dropout_rate, self.dropout_rate)
        head = DenseHead(
            self.num_classes, self.dense_features, self.pool_size, rates, self.activation, **types, name="head"
        )
        return head(x, train)


VARIANTS = {
    "zfnet": Variant(
        ZFNet,
        {},
        ModelInfo(
            family="zfnet",
            paper="Zeiler and Fergus 2013, arXiv:1311.2901, figure 3",
            num_params=62_357_608,
            min_size=MIN_SIZE,
            top1=61.6,
            weights="the paper's, table 2 (one network, ten crops)",
        ),
    ),
}
