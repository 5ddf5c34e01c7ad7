"""One loss for a network with several heads, such as `cnnjax.finetune.replace_head` makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp

from cnnjax.training.losses import LossName, default_metrics, loss_function
from cnnjax.training.metrics import Metrics, Sums

CLASSIFIERS = ("cross_entropy", "binary_cross_entropy")


@dataclasses.dataclass(frozen=True)
class Head:
    """What a head learns: its name, its loss, and what that loss weighs."""

    name: str
    loss: LossName
    weight: float = 1.0

    def part(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the batch as the head's loss and metrics take it."""
        kind = "label" if self.loss in CLASSIFIERS else "target"
        key = f"{kind}_{self.name}"
        if key not in batch:
            raise ValueError(f"head {self.name!r} learns from {key!r}, got a batch of {', '.join(sorted(batch))}")
        return {kind: batch[key]}


@dataclasses.dataclass(frozen=True)
class Heads:
    """Loss and metrics of several heads, both for `cnnjax.training.train_step`.

    The loss of an example is the weighted sum over heads; metrics have the head's name in front (``age_mse``). A head
    named ``age`` learns from ``label_age`` (classification) or ``target_age`` (regression) of the batch.

        heads = several_heads({"species": "cross_entropy", "age": "mse"}, weights={"age": 0.1})
        state, sums = train_step(state, batch, loss=heads.loss, metrics=heads)

    Attributes:
      heads: see `several_heads`, which makes them.
    """

    heads: tuple[Head, ...]

    def loss(self, outputs: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Return float32[batch]; ``outputs`` are name -> float[batch, outputs of the head]."""
        total: Any = jnp.zeros((), jnp.float32)
        for head in self.heads:
            if head.name not in outputs:
                raise ValueError(f"the network has no head {head.name!r}; its heads are {', '.join(sorted(outputs))}")
            total += head.weight * loss_function(head.loss)(outputs[head.name], head.part(batch))
        return total

    def _metrics(self) -> dict[Head, Metrics]:
        return {head: default_metrics(head.loss) for head in self.heads}

    def zeros(self) -> Sums:
        """Return the sums over no examples."""
        return {
            f"{head.name}_{key}": zero
            for head, metrics in self._metrics().items()
            for key, zero in metrics.zeros().items()
        }

    def sums(self, outputs: Any, batch: Mapping[str, jax.Array], mask: jax.Array) -> Sums:
        """Return the sums of each head's metrics."""
        return {
            f"{head.name}_{key}": value
            for head, metrics in self._metrics().items()
            for key, value in metrics.sums(outputs[head.name], head.part(batch), mask).items()
        }

    def means(self, sums: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return each head's metrics, such as ``species_accuracy``."""
        values: dict[str, Any] = {}
        for head, metrics in self._metrics().items():
            own = {key: sums[f"{head.name}_{key}"] for key in metrics.zeros()}
            values |= {f"{head.name}_{key}": value for key, value in metrics.means(own, count).items()}
        return values


def several_heads(losses: Mapping[str, LossName], weights: Mapping[str, float] | None = None) -> Heads:
    """Return loss and metrics of a network with several heads.

    Args:
      losses: name of a head -> its loss ("cross_entropy", "binary_cross_entropy", "mse", "mae", "huber").
      weights: name of a head -> what its loss weighs; 1 for those left out.
    Raises:
      ValueError: no head, an unknown loss, or a weight of a head that is not there or not above 0.
    """
    weights = weights or {}
    if not losses:
        raise ValueError("several_heads needs at least one head, got an empty dictionary")
    for name, loss in losses.items():
        if loss not in get_args(LossName):
            raise ValueError(f"loss of head {name!r} must be one of {', '.join(get_args(LossName))}, got {loss!r}")
    for name, weight in weights.items():
        if name not in losses:
            raise ValueError(f"weights name a head {name!r}; the heads are {', '.join(losses)}")
        if not weight > 0:
            raise ValueError(f"the weight of head {name!r} must be above 0, got {weight}")
    return Heads(tuple(Head(name, loss, weights.get(name, 1.0)) for name, loss in losses.items()))
