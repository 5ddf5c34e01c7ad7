"""The small convolutional network that claims are tested on."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from cnnjax.nn import BatchNorm, Conv, avg_pool, global_avg_pool, l2_pool, max_pool

POOLS: dict[str, Callable[[jax.Array, int], jax.Array]] = {"max": max_pool, "average": avg_pool, "L2": l2_pool}


class SmallCNN(nn.Module):
    """3x3 convolutions, each normalised or not, activated and pooled or not; a dense layer classifies.

    Attributes:
      features: maps of each convolution.
      pool: "max", "average" or "L2", over 2x2 pixels after each convolution; None for none.
      batch_norm: normalise before the activation.
      global_average: average the last maps before the classifier, which otherwise sees every position.

    Args:
      images: float[batch, height, width, channels]; each pooling halves height and width.
      train: normalise with the batch's statistics.
    Returns:
      float32[batch, num_classes] logits.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (16, 32)
    pool: str | None = "max"
    batch_norm: bool = False
    global_average: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        x = images
        for features in self.features:
            x = Conv(features, (3, 3), kernel_init=nn.initializers.he_normal())(x)
            if self.batch_norm:
                x = BatchNorm()(x, use_running_average=not train)
            x = nn.relu(x)
            if self.pool is not None:
                x = POOLS[self.pool](x, 2)
        x = global_avg_pool(x) if self.global_average else x.reshape(len(x), -1)
        return nn.Dense(self.num_classes)(x)
