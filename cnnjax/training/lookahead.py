"""Lookahead: slow weights that follow those of the optimizer, and that these start from again every few steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """When and how far the slow weights move towards those that the optimizer trains.

    Every ``steps`` steps, slow = a slow + (1 - a) fast and fast = slow, where a = ``decay`` (step / ``total``)^
    ``power``. The running statistics of batch normalisation go with the parameters. The slow ones are evaluated.

    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1: steps 5, decay 0.5, power 0, and no statistics. Jordan
    2024, arXiv:2404.00498, section 3, has statistics too, decay 0.95^5 and power 3: little at first, most at the end.

    Attributes:
      steps: k in the paper, at least 1.
      decay: share of the slow weights that is kept, 1 - alpha in the paper: at the end of the run, if it grows.
      power: how the share grows in the course of the run; 0: not at all.
      total: steps of the run; counts only if the share grows.
    """

    steps: int
    decay: float
    power: float
    total: int

    def __call__(self, step: jax.Array, slow: Any, fast: Any) -> tuple[Any, Any]:
        """Return the slow and the fast weights after a step.

        Args:
          step: int32[], steps taken, this one too.
          slow, fast: trees of the same structure.
        """
        share = jnp.float32(self.decay) * (step.astype(jnp.float32) / self.total) ** jnp.float32(self.power)
        meet = step % self.steps == 0

        def moved(slow: jax.Array, fast: jax.Array) -> jax.Array:
            a = share.astype(slow.dtype)
            return jnp.where(meet, a * slow + (1 - a) * fast, slow)

        slow = jax.tree.map(moved, slow, fast)
        return slow, jax.tree.map(lambda slow, fast: jnp.where(meet, slow, fast), slow, fast)
