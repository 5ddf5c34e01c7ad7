"""Reordering of channels."""

from __future__ import annotations

import jax


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deal the channels out so that each of ``groups`` neighbouring runs gets equally many from every old run.

    Source: Zhang et al. 2017, arXiv:1707.01083, section 3.1; differs: nothing.

    Args:
      x: float[..., channels].
      groups: number of runs, a divisor of ``channels``.
    Returns:
      An array like ``x``.
    Raises:
      ValueError: ``channels`` is not a multiple of ``groups``.

    >>> channel_shuffle(jax.numpy.arange(6), 2).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if x.shape[-1] % groups:
        raise ValueError(f"channels must be a multiple of groups, got {x.shape[-1]} channels and {groups} groups")
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)
