"""The last layers of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.nn.conv import Conv
from cnnjax.nn.initializers import torch_uniform
from cnnjax.nn.pooling import adaptive_avg_pool, global_avg_pool


class ClassifierHead(nn.Module):
    """Average over space, drop out, and classify.

    Networks whose blocks start with a normalisation have one more to do at the end: give it as ``norm`` (a class, or a
    ``partial`` of one, that takes ``use_running_average``), and it comes first, as ``norm1``, with ``activation``.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout and normalises with the batch's statistics.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, channels] pooled features when ``num_classes``
      is 0.
    """

    num_classes: int
    dropout_rate: float = 0.0
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = torch_uniform
    norm: Callable[..., nn.Module] | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``x``."""
        if self.norm is not None:
            x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = global_avg_pool(x)
        if self.num_classes == 0:
            return x.astype(jnp.float32)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            name="classifier",
        )(x)
        return x.astype(jnp.float32)


class DenseHead(nn.Module):
    """Bring the maps to one size, flatten them, and classify through hidden dense layers.

    Values are flattened in the order height, width, channels.

    Attributes:
      dense_features: units of the hidden layers ``dense1``, ``dense2``, ...
      pool_size: height and width that maps of any other size are averaged to; None flattens them as they are.
      dropout_rates: one a dense layer, the classifier's last, for its input; empty for no dropout.
      bias_init: of the hidden layers; the classifier's bias starts at 0.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] of the last hidden layer when
      ``num_classes`` is 0.
    """

    num_classes: int
    dense_features: tuple[int, ...]
    pool_size: int | None = None
    dropout_rates: tuple[float, ...] = ()
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``x``."""
        if self.pool_size is not None:
            x = adaptive_avg_pool(x, self.pool_size)
        x = x.reshape(x.shape[0], -1)
        rates = self.dropout_rates or (0.0,) * (len(self.dense_features) + 1)
        dense = partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=self.kernel_init)
        for index, (features, rate) in enumerate(zip(self.dense_features, rates[:-1], strict=True), start=1):
            x = nn.Dropout(rate, deterministic=not train)(x)
            x = self.activation(dense(features, bias_init=self.bias_init, name=f"dense{index}")(x))
        if self.num_classes > 0:
            x = nn.Dropout(rates[-1], deterministic=not train)(x)
            x = dense(self.num_classes, name="classifier")(x)
        return x.astype(jnp.float32)


class ConvHead(nn.Module):
    """Classify every position by a rectified 1x1 convolution, then average the classes' maps over space.

    Source: Lin, Chen and Yan 2013, arXiv:1312.4400, section 3.2; differs: nothing.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout to ``x``.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, channels] averages of ``x`` when
      ``num_classes`` is 0.
    """

    num_classes: int
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = torch_uniform

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``x``."""
        if self.num_classes > 0:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = Conv(
                self.num_classes,
                (1, 1),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                kernel_init=self.kernel_init,
                name="classifier",
            )(x)
            x = self.activation(x)
        return x.mean((1, 2), dtype=jnp.float32)
