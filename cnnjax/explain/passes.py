"""Many evaluations in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise an error for a count that is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def sum_over(function: Callable[[Any], Any], inputs: Any, batch_size: int) -> Any:
    """Return the sum of a function's results over the first axis of its inputs, ``batch_size`` of them at a time.

    Args:
      function: of one element, returns arrays.
      inputs: arrays with one first axis.
      batch_size: evaluated together; memory grows with it, and not with the number of inputs.
    """
    check_count("batch_size", batch_size)
    count = jax.tree.leaves(inputs)[0].shape[0]
    chunks = -(-count // batch_size)
    # Chunks of one size, so that one program is compiled; what is missing in the last one is evaluated and not counted.
    size = -(-count // chunks)
    places = jnp.arange(chunks * size).reshape(chunks, size)

    def of_chunk(numbers: jax.Array) -> Any:
        found = jax.vmap(function)(jax.tree.map(lambda array: array[jnp.minimum(numbers, count - 1)], inputs))
        if chunks * size == count:
            return jax.tree.map(lambda array: array.sum(0), found)
        return jax.tree.map(
            lambda array: array.sum(0, where=(numbers < count).reshape(-1, *(1,) * (array.ndim - 1))), found
        )

    start = jax.tree.map(lambda found: jnp.zeros(found.shape, found.dtype), jax.eval_shape(of_chunk, places[0]))
    total, _ = jax.lax.scan(
        lambda total, numbers: (jax.tree.map(jnp.add, total, of_chunk(numbers)), None), start, places
    )
    return total
