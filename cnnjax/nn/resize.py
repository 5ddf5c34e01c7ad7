"""Changing the resolution of feature maps without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cnnjax.nn.operation import is_written_out
from cnnjax.nn.precision import sum_dtype


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Interpolate linearly along height and width.

    Pixels are areas: output i reads the input at (i + 1/2) * input size / output size - 1/2, clipped to the outermost
    pixel centres, as PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` does. Nothing is averaged when the
    result is smaller.

    Args:
      x: float[batch, height, width, channels].
      size: height and width of the result.
    Returns:
      float[batch, *size, channels] in the type of ``x``, interpolated in float32 at least.
    """
    shape = (x.shape[0], *size, x.shape[-1])
    if x.shape[1:3] == (1, 1):
        return jnp.broadcast_to(x, shape)
    maps = x.astype(sum_dtype(x.dtype))
    if is_written_out():
        # The same interpolation: converters put an operation of their own, for one size of batch, in resize's place.
        scale = jnp.asarray([after / before for before, after in zip(x.shape[1:3], size, strict=True)], maps.dtype)
        shift = jnp.zeros_like(scale)
        resized = jax.image.scale_and_translate(maps, shape, (1, 2), scale, shift, "linear", antialias=False)
    else:
        resized = jax.image.resize(maps, shape, "bilinear", antialias=False)
    return resized.astype(x.dtype)
