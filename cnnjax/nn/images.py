"""What every network asks of its input."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def check_images(images: jax.Array, *, min_size: int = 1, size_step: int = 1) -> None:
    """Raise a clear error unless ``images`` is a float batch that a network can take.

    Args:
      images: float[batch, height, width, channels].
      min_size: smallest legal height and width, pixels.
      size_step: legal heights and widths are ``min_size`` plus multiples of it.
    Raises:
      TypeError: not a floating-point array.
      ValueError: not four dimensions, channels first, smaller than ``min_size``, or between two legal sizes.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be float[batch, height, width, channels], got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating-point, got {images.dtype}; normalise them first, for example "
            "(images / 255 - mean) / std"
        )
    height, width, channels = images.shape[1:]
    # A square of many pixels behind 1 to 4 rows: as PyTorch orders the axes of grey, coloured and layered images.
    if height <= 4 and width == channels > 4:
        raise ValueError(
            f"images must be float[batch, height, width, channels], channels last, got shape {images.shape}, which "
            "looks like channels first; turn it by jnp.moveaxis(images, 1, -1)"
        )
    if height < min_size or width < min_size:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for this network: the smallest legal size is "
            f"{min_size}x{min_size}; resize the images or take another network"
        )
    if (height - min_size) % size_step or (width - min_size) % size_step:
        below = [size - (size - min_size) % size_step for size in (height, width)]
        raise ValueError(
            f"images of {height}x{width} pixels do not fit this network: height and width must be {min_size} plus a "
            f"multiple of {size_step}, the smallest {min_size}x{min_size}; resize, pad or crop the images, for example "
            f"to {below[0]}x{below[1]}"
        )


def pad_to_legal_size(images: jax.Array, *, min_size: int = 1, size_step: int = 1) -> jax.Array:
    """Enlarge images at the right and below to a size a network takes, by mirroring; crop what comes out back.

    >>> images = jnp.ones((1, 20, 33, 3))
    >>> pad_to_legal_size(images, min_size=16, size_step=16).shape
    (1, 32, 48, 3)

    Args:
      images: [batch, height, width, channels].
      min_size: smallest legal height and width, pixels.
      size_step: legal heights and widths are ``min_size`` plus multiples of it.
    Returns:
      [batch, legal height, legal width, channels] of the smallest legal size that is not smaller.
    Raises:
      ValueError: no pixels.
    """
    if images.ndim != 4 or 0 in images.shape[1:3]:
        raise ValueError(f"images must be [batch, height, width, channels] with pixels, got shape {images.shape}")
    missing = [max(min_size - size, 0) or (min_size - size) % size_step for size in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
