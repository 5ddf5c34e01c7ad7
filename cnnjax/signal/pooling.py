"""Pooling of signals and images without a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from cnnjax.nn import avg_pool, l2_pool, max_pool
from cnnjax.signal.convolution import steps

Kind = Literal["max", "average", "l2"]
_POOLS = {"max": max_pool, "average": avg_pool, "l2": l2_pool}


def pool(
    signal: ArrayLike,
    window: int | Sequence[int],
    kind: Kind = "max",
    *,
    stride: int | Sequence[int] | None = None,
) -> jax.Array:
    """Take the maximum, the mean or the Euclidean norm of each window; values that no whole window reaches are dropped.

    Args:
      signal: [length], [height, width], or either with channels last; whole numbers are taken as float32.
      window: one number for a square, (length,) for a signal, or (height, width).
      kind: "max", "average", or "l2" (the root of the sum of squares).
      stride: step between windows; None means the window's size.
    Returns:
      Array of the signal's rank and floating type.
    Raises:
      ValueError: an unknown kind, a window or stride below 1, a window larger than the signal, or a signal of another
        number of dimensions.
    """
    if kind not in _POOLS:
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    signal = jnp.asarray(signal)
    if not jnp.issubdtype(signal.dtype, jnp.floating):
        signal = signal.astype(jnp.float32)
    spatial = 2 if isinstance(window, int) else len(window)
    if spatial not in (1, 2) or signal.ndim not in (spatial, spatial + 1):
        raise ValueError(
            f"a window of {window} needs a signal of {spatial} dimensions, with or without channels last, got shape "
            f"{signal.shape}"
        )
    sizes = steps("window", window, spatial)
    strides = sizes if stride is None else steps("stride", stride, spatial)
    shape = (*signal.shape[:spatial], *(1,) * (2 - spatial), *(signal.shape[spatial:] or (1,)))
    ones = (1,) * (2 - spatial)
    out = _POOLS[kind](signal.reshape(1, *shape), (*sizes, *ones), (*strides, *ones))
    return out.reshape(*out.shape[1 : 1 + spatial], *(out.shape[3:] if signal.ndim > spatial else ()))
