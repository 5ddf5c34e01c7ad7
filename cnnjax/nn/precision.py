"""The type that sums and statistics are taken in."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def sum_dtype(dtype: Any) -> Any:
    """Return float64 for float64, which `jax.config.jax_enable_x64` allows, and float32 for every other type.

    >>> sum_dtype(jnp.bfloat16)
    dtype('float32')
    """
    return jnp.dtype(jnp.float64) if jnp.dtype(dtype) == jnp.float64 else jnp.dtype(jnp.float32)
