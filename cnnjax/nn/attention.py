"""Channel attention."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.nn.activation import logistic, relu
from cnnjax.nn.conv import Conv
from cnnjax.nn.initializers import torch_uniform
from cnnjax.nn.precision import sum_dtype


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means: x * gate(W2 activation(W1 mean(x))).

    Source: Hu, Shen and Sun 2018, arXiv:1709.01507, equations 2 to 4; differs: the two dense layers carry biases
    and are 1x1 convolutions, as in the published weights.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      An array like ``x``.
    """

    squeeze_features: int
    activation: Callable[[jax.Array], jax.Array] = relu
    gate: Callable[[jax.Array], jax.Array] = logistic
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x`` with its channels scaled."""

        def conv(features: int, name: str) -> Conv:
            return Conv(
                features,
                (1, 1),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=self.kernel_init,
                name=name,
            )

        scale = x.mean((1, 2), keepdims=True, dtype=sum_dtype(x.dtype)).astype(x.dtype)
        scale = self.activation(conv(self.squeeze_features, "squeeze_conv")(scale))
        return x * self.gate(conv(x.shape[-1], "excite_conv")(scale))
