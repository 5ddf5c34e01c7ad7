"""The last layers of a classifier."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.nn.initializers import torch_uniform
from cnnjax.nn.pooling import global_avg_pool


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
