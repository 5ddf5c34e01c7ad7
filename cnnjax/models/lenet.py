"""LeNet-5.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), figure 2 and section II.B (older than arXiv).

``lenet5`` is the network as lectures teach it. It differs from the paper's: average pooling without trainable
coefficients (the paper's subsampling has two a map), plain tanh (1.7159 tanh(2x/3) there), the second convolution sees
every map (a hand-made connection table there), and a dense layer for the output (radial basis functions there).
28-pixel images are padded by 2 to the 32 pixels of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, avg_pool, check_images

# Maps or units of layers C1, C3, C5 and F6 (section II.B).
CONV_FEATURES = (6, 16)
DENSE_FEATURES = (120, 84)
# Below this the second 5x5 convolution has nothing left to pool.
MIN_SIZE = 12


class LeNetStage(nn.Module):
    """Convolve with 5x5 kernels, squash, and halve by averaging 2x2 windows.

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, out_height // 2, out_width // 2, features], where ``padding`` decides the convolution's out_height.
    """

    features: int
    padding: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the stage to ``x``."""
        x = Conv(
            self.features, (5, 5), padding=self.padding, dtype=self.dtype, param_dtype=self.param_dtype, name="conv1"
        )(x)
        return avg_pool(self.activation(x), 2)


class LeNetHead(nn.Module):
    """Two hidden dense layers and the classifier.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float32[batch, num_classes] logits; float32[batch, 84] when ``num_classes`` is 0.
    """

    num_classes: int
    features: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of ``x``."""
        x = x.reshape(x.shape[0], -1)
        for index, features in enumerate(self.features, start=1):
            dense = nn.Dense(features, dtype=self.dtype, param_dtype=self.param_dtype, name=f"dense{index}")
            x = self.activation(dense(x))
        if self.num_classes > 0:
            x = nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="classifier")(x)
        return x.astype(jnp.float32)


class LeNet(nn.Module):
    """LeNet-5 as taught: two convolutions with pooling, three dense layers.

    Source: LeCun et al. 1998, figure 2; differs: see the head of this file.

    Args:
      images: float[batch, height, width, channels], 12 pixels or more; published for 28x28x1.
      train: no layer of this network depends on it.
    Returns:
      float32[batch, num_classes] logits, before softmax.
    Raises:
      ValueError: height or width under 12 pixels.
    """

    num_classes: int = 10
    conv_features: tuple[int, int] = CONV_FEATURES
    dense_features: tuple[int, ...] = DENSE_FEATURES
    activation: Callable[[jax.Array], jax.Array] = nn.tanh
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        first, second = self.conv_features
        types: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
        x = LeNetStage(first, padding=2, **types, name="stage1")(images)
        x = LeNetStage(second, padding=0, **types, name="stage2")(x)
        return LeNetHead(self.num_classes, self.dense_features, **types, name="head")(x)


VARIANTS = {
    "lenet5": Variant(
        LeNet,
        {},
        ModelInfo(
            family="lenet",
            paper="LeCun et al. 1998, Proceedings of the IEEE 86(11), figure 2",
            num_params=61_706,
            num_classes=10,
            input_size=(28, 28),
            channels=1,
            min_size=MIN_SIZE,
            # Of the 60,000 training images of MNIST.
            mean=(0.1307,),
            std=(0.3081,),
        ),
    ),
}
