"""What happens to images on the device, inside the compiled step: augmentation and normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Turn a batch of uint8 images into what a network takes.

    Hashable, so that it can be closed over by a compiled step.

    Attributes:
      mean, std: a channel, for pixels in [0, 1].
      crop_padding: zero pixels put around an image before a crop of the old size is taken at random.
      mirror: flip half of the images left to right.

    Args:
      batch: ``image`` uint8[batch, height, width, channels], and what else belongs to the examples.
      keys: key[batch], one random key an example; None does not augment.
    Returns:
      The batch, with ``image`` float32[batch, height, width, channels].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    mirror: bool = False

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Augment (with keys) and normalise the images of ``batch``."""
        images = batch["image"]
        if keys is not None and (self.crop_padding or self.mirror):
            crop_keys, mirror_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
            if self.crop_padding:
                images = random_crop(crop_keys, images, self.crop_padding)
            if self.mirror:
                images = random_mirror(mirror_keys, images)
        shape = (1, 1, 1, len(self.mean))
        mean = jnp.asarray(self.mean, jnp.float32).reshape(shape)
        std = jnp.asarray(self.std, jnp.float32).reshape(shape)
        return {**batch, "image": (images.astype(jnp.float32) / 255 - mean) / std}


def random_crop(keys: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shift each image, by its own key, by up to ``padding`` pixels in each direction, filling with zeros."""
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        corner = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (height, width, channels)
        )

    return jax.vmap(crop)(keys, padded)


def random_mirror(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Flip each image, by its own key, left to right with probability one half."""
    flip = jax.vmap(jax.random.bernoulli)(keys).reshape(-1, 1, 1, 1)
    return jnp.where(flip, images[:, :, ::-1], images)
