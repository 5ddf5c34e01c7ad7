"""Layers that act in training mode only."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class StochasticDepth(nn.Module):
    """Drop a residual branch for whole examples, and scale the surviving ones by 1 / (1 - rate).

    Source: Huang et al. 2016, arXiv:1603.09382, section 3; differs: scaled while training (as dropout is today), where
    the paper scales at test time. Uses the ``dropout`` random stream.

    Args:
      x: float[batch, ...], the output of the branch before it is added.
      train: False returns ``x`` as it is.
    Returns:
      An array like ``x``.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Drop ``x`` for a random subset of the batch when ``train``."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"stochastic depth rate must be at least 0 and below 1, got {self.rate}")
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        # Drawn flat: XLA's CPU compiler takes seconds for draws of more dimensions.
        kept = jax.random.bernoulli(self.make_rng("dropout"), jnp.float32(keep), (x.shape[0],))
        kept = kept.reshape((-1,) + (1,) * (x.ndim - 1))
        return jnp.where(kept, x / jnp.asarray(keep, x.dtype), jnp.zeros((), x.dtype))


def stochastic_depth_rates(last: float, stage_sizes: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Return a rate for each block of each stage, rising linearly from 0 at the first to ``last`` at the last block.

    Source: Huang et al. 2016, arXiv:1603.09382, equation 4; differs: the first block is never dropped, as in
    torchvision and timm.
    """
    total = sum(stage_sizes)
    rates = [last * index / max(total - 1, 1) for index in range(total)]
    starts = [sum(stage_sizes[:stage]) for stage in range(len(stage_sizes))]
    return tuple(tuple(rates[start : start + size]) for start, size in zip(starts, stage_sizes, strict=True))
