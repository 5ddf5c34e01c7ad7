"""Loops over blocks of rows, which stay in cache."""

from __future__ import annotations

import jax
from jax import lax

from cnnjax.nn.slices import Geometry


def rows_in_cache(rows: int, row: int, limit: int) -> int:
    """Return how many rows of ``row`` numbers make a block: at most ``limit`` numbers, and all blocks are equal."""
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * row <= limit))


def rows_seen(rows: int, window: int, geometry: Geometry) -> int:
    """Return how many rows of the padded images a window sees from so many of its places along the first axis."""
    return (rows - 1) * geometry.strides[0] + (window - 1) * geometry.kernel_dilation[0] + 1


def varying_as(example: jax.Array, start: jax.Array) -> jax.Array:
    """Return what a loop starts with: under ``shard_map`` it has to vary over the axes that the result varies over."""
    varying = jax.typeof(example).manual_axis_type.varying
    return lax.pcast(start, tuple(varying), to="varying") if varying else start
