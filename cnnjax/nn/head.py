"""The last layers of a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.nn.activation import relu
from cnnjax.nn.conv import Conv
from cnnjax.nn.initializers import torch_uniform
from cnnjax.nn.normalization import BatchNorm
from cnnjax.nn.pooling import adaptive_avg_pool, global_avg_pool


def sow_aux_logits(module: nn.Module, name: str, logits: jax.Array) -> None:
    """Leave the logits of an auxiliary head in the collection ``aux_logits``, as a tuple of one, for who asked for it.

    ``Module.sow`` would refuse the name because the head itself has it. Nothing is left while parameters are drawn.

    Args:
      module: the network.
      name: the head's, such as "aux1".
      logits: what the head returned.
    """
    if not module.is_initializing() and module.is_mutable_collection("aux_logits"):
        module.put_variable("aux_logits", name, (logits,))


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
    activation: Callable[[jax.Array], jax.Array] = relu

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
    activation: Callable[[jax.Array], jax.Array] = relu
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``x``."""
        if self.pool_size is not None:
            x = adaptive_avg_pool(x, self.pool_size)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
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
    activation: Callable[[jax.Array], jax.Array] = relu
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


class PixelClassifierHead(nn.Module):
    """Convolve 3x3 to a quarter of the channels, normalise, drop out, and classify each place.

    The head of torchvision's FCN, and the auxiliary head of its other segmentation networks.

    Args:
      x: float[batch, height, width, channels].
      train: True normalises with the batch's statistics and applies dropout.
    Returns:
      float32[batch, height, width, num_classes] logits, before softmax; float32[batch, height, width, channels // 4]
      when ``num_classes`` is 0.
    """

    num_classes: int
    dropout_rate: float = 0.1
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each place of ``x``."""
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=torch_uniform)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype, name="norm1")
        x = conv(x.shape[-1] // 4, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(norm(x, use_running_average=not train))
        if self.num_classes > 0:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = conv(self.num_classes, (1, 1), name="classifier")(x)
        return x.astype(jnp.float32)
