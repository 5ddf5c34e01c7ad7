"""Kernel gradients of dense windows in a loop over blocks of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.conv_cpu.rows import rows_in_cache, rows_seen, varying_as
from cnnjax.nn.slices import Geometry, Shape, pad, shifted, taps_of

# Largest block of images spread out for a product, in elements, that stays in cache.
BLOCK_ELEMENTS = 1 << 19


def looped_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    """Return the kernel gradient as a sum of products over blocks of rows of each image.

    What the window sees at each place of a block of rows is written side by side and multiplied with the cotangent
    there, while both are in cache.
    """
    batch, rows, columns, features = cotangent.shape
    channels, taps = images.shape[-1], taps_of(window)
    height = rows_in_cache(rows, columns * len(taps) * channels, BLOCK_ELEMENTS)
    padded = pad(images, geometry.padding)
    reach = (rows_seen(height, window[0], geometry), padded.shape[2])

    def add(index: jax.Array, total: jax.Array) -> jax.Array:
        image, top = index // (rows // height), index % (rows // height) * height
        seen = lax.dynamic_slice(padded, (image, top * geometry.strides[0], 0, 0), (1, *reach, channels))
        ct = lax.dynamic_slice(cotangent, (image, top, 0, 0), (1, height, columns, features))
        side_by_side = jnp.concatenate([shifted(seen, tap, (height, columns), geometry) for tap in taps], -1)
        return total + over_pixels(side_by_side, ct, geometry)

    zero = varying_as(padded, jnp.zeros((len(taps) * channels, features), images.dtype))
    total = lax.fori_loop(0, batch * (rows // height), add, zero)
    return total.reshape(*window, channels, features)
