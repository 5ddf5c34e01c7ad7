"""What happens to a batch on the device, inside the compiled step: augmentation and normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cnnjax.data.augment import Operation, augment


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Turn a batch of uint8 images into what a network takes.

    Hashable, so that it can be closed over by a compiled step.

    Attributes:
      mean, std: a channel, for pixels in [0, 1].
      operations: augmentations, see `cnnjax.data.augment`, in the order in which they are applied.

    Args:
      batch: ``image`` uint8[batch, height, width, channels], and what else belongs to the examples.
      keys: key[batch], one random key an example; None does not augment.
    Returns:
      The batch, with ``image`` float32[batch, height, width, channels].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    operations: tuple[Operation, ...] = ()

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Augment (with keys) and normalise the images of ``batch``."""
        if keys is not None:
            batch = augment(batch, keys, self.operations)
        shape = (1, 1, 1, len(self.mean))
        mean = jnp.asarray(self.mean, jnp.float32).reshape(shape)
        std = jnp.asarray(self.std, jnp.float32).reshape(shape)
        return {**batch, "image": (batch["image"].astype(jnp.float32) / 255 - mean) / std}
