"""The fully connected network that lectures compare convolutions with.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), section III.C.5: 28x28-300-100-10.

Differs from the paper: rectified units instead of scaled tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn.activation import relu
from cnnjax.nn.building import DenseHead, check_images
from cnnjax.nn.initializers import Drawn

# Units of the hidden layers (section III.C.5); 3.05 % of the test digits wrong.
FEATURES = (300, 100)


class Stage(nn.Module):
    """A hidden layer.

    Args:
      x: float[batch, in_features].
      train: True applies dropout to the layer's output.
    Returns:
      float[batch, features].
    """

    features: int
    dropout_rate: float
    activation: Callable[[jax.Array], jax.Array]
    dense: Callable[..., nn.Dense]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the layer to ``x``."""
        x = self.activation(self.dense(self.features, name="dense1")(x))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class MLP(nn.Module):
    """Multilayer perceptron on the pixels, in the order height, width, channels.

    Source: LeCun et al. 1998, section III.C.5; differs: see the head of this file.

    Attributes:
      features: units of the hidden layers, any number of them.
      dropout_rate: of the hidden layers' outputs.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels]; the parameters fit one image size only. Published for 28x28x1.
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features[-1]] when ``num_classes`` is 0.
    """

    num_classes: int = 10
    features: tuple[int, ...] = FEATURES
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    kernel_init: Initializer = Drawn(nn.initializers.he_normal)
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": self.kernel_init}
        dense = partial(nn.Dense, **types)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
        x = images.reshape(images.shape[0], math.prod(images.shape[1:]))
        for index, features in enumerate(self.features, start=1):
            x = stage_class(features, self.dropout_rate, self.activation, dense, name=f"stage{index}")(x, train)
        return DenseHead(self.num_classes, (), **types, name="head")(x, train)


VARIANTS = {
    "mlp": Variant(
        MLP,
        {},
        ModelInfo(
            family="mlp",
            paper="LeCun et al. 1998, Proceedings of the IEEE 86(11), section III.C.5",
            num_params=266_610,
            num_classes=10,
            input_size=(28, 28),
            channels=1,
            min_size=1,
            # Mean and standard deviation of the 60,000 training images of MNIST.
            mean=(0.1307,),
            std=(0.3081,),
        ),
    ),
}
