"""What happens to images on the device, inside the compiled step: augmentation and normalisation."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Turn uint8 images into what a network takes.

    Hashable, so that it can be closed over by a compiled step.

    Attributes:
      mean, std: a channel, for pixels in [0, 1].
      crop_padding: zero pixels put around an image before a crop of the old size is taken at random.
      mirror: flip half of the images left to right.

    Args:
      images: uint8[batch, height, width, channels].
      key: random key of the augmentation; None does not augment.
    Returns:
      float32[batch, height, width, channels].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    mirror: bool = False

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Augment (with a key) and normalise ``images``."""
        if key is not None:
            crop_key, mirror_key = jax.random.split(key)
            if self.crop_padding:
                images = random_crop(crop_key, images, self.crop_padding)
            if self.mirror:
                images = random_mirror(mirror_key, images)
        shape = (1, 1, 1, len(self.mean))
        mean = jnp.asarray(self.mean, jnp.float32).reshape(shape)
        std = jnp.asarray(self.std, jnp.float32).reshape(shape)
        return (images.astype(jnp.float32) / 255 - mean) / std


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shift each image by up to ``padding`` pixels in each direction, filling with zeros."""
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Drawn flat: XLA's CPU compiler takes seconds for draws of more dimensions.
    corners = jax.random.randint(key, (2 * batch,), 0, 2 * padding + 1).reshape(batch, 2)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (height, width, channels)
        )

    return jax.vmap(crop)(padded, corners)


def random_mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flip each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0],)).reshape(-1, 1, 1, 1)
    return jnp.where(flip, images[:, :, ::-1], images)
