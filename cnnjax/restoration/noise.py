"""Gaussian noise, on the device as a part of the training step and on the host. Levels are in grey levels of 255."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class AddNoise:
    """Make of clean training images noisy ones, with themselves as the target.

    Hashable, so that a compiled step can close over it. Batches that have a ``target`` stay as they are: those that
    are evaluated are noisy already, and the same each time.

    Attributes:
      low, high: range of the noise's standard deviation, drawn for each image.

    Args:
      batch: ``image`` uint8[batch, height, width, channels]; or with a ``target``.
      keys: key[batch], one random key an image.
    Returns:
      The batch with ``target`` float32, pixels in [0, 1], and ``image``, the same with noise, not clipped.
    Raises:
      ValueError: a level below 0, or ``low`` above ``high``; clean images without keys.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got a range of {self.low} to {self.high}")

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Add noise to the images of ``batch``."""
        if "target" in batch:
            return dict(batch)
        target = batch["image"].astype(jnp.float32) / 255
        if self.high == 0:
            return {**batch, "image": target, "target": target}
        if keys is None:
            raise ValueError("images without a target need keys to draw noise with; give noisy ones and a target")

        def noisy(key: jax.Array, image: jax.Array) -> jax.Array:
            level_key, noise_key = jax.random.split(key)
            level = jax.random.uniform(level_key, dtype=jnp.float32, minval=self.low / 255, maxval=self.high / 255)
            # Drawn flat: XLA's CPU compiler takes seconds for draws of more dimensions.
            return image + level * jax.random.normal(noise_key, (image.size,), jnp.float32).reshape(image.shape)

        return {**batch, "image": jax.vmap(noisy)(keys, target), "target": target}


def add_noise(
    images: np.ndarray, level: float | np.ndarray, generator: np.random.Generator | int | tuple[int, ...]
) -> np.ndarray:
    """Return images with Gaussian noise, not clipped.

    Args:
      images: float[..., height, width, channels], pixels in [0, 1].
      level: standard deviation, grey levels of 255; a number, or an array that broadcasts against ``images``.
      generator: or a seed.
    Returns:
      float32, of the shape of ``images``.
    Raises:
      ValueError: a level below 0.
    """
    levels = np.asarray(level, np.float64)
    if not ((levels >= 0) & (levels < np.inf)).all():
        raise ValueError(f"noise must be at least 0 and finite, got {level}")
    noise = np.random.default_rng(generator).normal(size=images.shape).astype(np.float32)
    return images.astype(np.float32) + noise * (levels / 255).astype(np.float32)
