"""Training states with frozen parts, and parts that thaw in the course of a run."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax.finetune.batch_norm import frozen_statistics
from cnnjax.finetune.masks import freeze, frozen_paths
from cnnjax.finetune.paths import Selection, leaves_by_path, map_by_path, select
from cnnjax.runs.moments import move_moments, owner
from cnnjax.state import TrainState


class CarryOver(NamedTuple):
    """An optimizer's state for another set of trainable parameters.

    Attributes:
      opt_state: what both sets share is kept, with its step counts; what is new starts as ``init`` makes it.
      started, dropped: paths of the parameters whose moments are new, and of those whose moments are gone.
    """

    opt_state: optax.OptState
    started: tuple[str, ...]
    dropped: tuple[str, ...]


def carry_over(tx: optax.GradientTransformation, params: Any, opt_state: optax.OptState) -> CarryOver:
    """Return a state of ``tx`` that keeps what ``opt_state``, of the same optimizer under another mask, holds for it.

    Moments of newly thawed parameters start at zero, while the optimizer's step count goes on. ``adam`` then corrects
    no bias of theirs: their first updates are larger than usual, about 3 times at most with its usual decays.

    Args:
      tx: the optimizer to continue with, from `freeze`.
      params: the parameters.
      opt_state: of the optimizer before.
    Raises:
      ValueError: the states share nothing, as those of different optimizers do.
    """
    fresh = tx.init(params)
    old, new = leaves_by_path(opt_state), leaves_by_path(fresh)
    if old and new and not old.keys() & new.keys():
        raise ValueError("the optimizer's states share nothing; carry_over is for one optimizer under two masks")
    for path in old.keys() & new.keys():
        if old[path].shape != new[path].shape or old[path].dtype != new[path].dtype:
            del old[path]
    paths = leaves_by_path(params).keys()
    moved = move_moments(old, new, lambda path: owner(path, paths) or path)
    return CarryOver(map_by_path(lambda path, leaf: moved.leaves.get(path, leaf), fresh), moved.started, moved.dropped)


def frozen_variables(params: Any, batch_stats: Any, frozen: Selection) -> frozenset[str]:
    """Return what a `cnnjax.training.TrainState` has as ``frozen``: the paths with their collections."""
    chosen = frozen_paths(params, frozen)
    statistics = frozen_statistics(params, batch_stats, chosen)
    return frozenset(f"params/{path}" for path in chosen) | frozenset(f"batch_stats/{path}" for path in statistics)


def train_state(
    model: nn.Module,
    variables: Mapping[str, Any],
    tx: optax.GradientTransformation,
    rng: jax.Array,
    *,
    frozen: Selection = (),
    ema: bool = False,
) -> TrainState:
    """Return a state to fine-tune from, for `cnnjax.training.train_step`.

    The step takes gradients of the trainable parameters only and leaves what is frozen as it is, bit for bit: the
    parameters, the running statistics of their batch normalisations, and the moving averages of both.

    Args:
      model: the network.
      variables: its variables, ``params`` and, where there is batch normalisation, ``batch_stats``. They and
        ``rng`` are copied, because a step may be given its state to reuse.
      tx: the optimizer, without `freeze`.
      rng: random key of the run's draws.
      frozen: what is frozen, see `freeze`.
      ema: also keep moving averages.
    Raises:
      ValueError: see `freeze`.
    """
    params, batch_stats = (jax.tree.map(jnp.array, variables.get(name, {})) for name in ("params", "batch_stats"))
    frozen_tx = freeze(tx, params, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(frozen_tx.init)(params),
        rng=jnp.copy(rng),
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None,
        frozen=frozen_variables(params, batch_stats, frozen),
        apply_fn=model.apply,
        tx=frozen_tx,
    )


def refreeze(state: TrainState, tx: optax.GradientTransformation, frozen: Selection) -> tuple[TrainState, CarryOver]:
    """Return ``state`` with other parts frozen, and what became of the optimizer's state.

    A moving average of what becomes frozen stays where it is.

    Args:
      state: on one device (unreplicated).
      tx: the optimizer, without `freeze`.
      frozen: what is frozen from now on, see `freeze`.
    Raises:
      ValueError: see `freeze` and `carry_over`.
    """
    frozen_tx = freeze(tx, state.params, frozen)
    carried = carry_over(frozen_tx, state.params, state.opt_state)
    paths = frozen_variables(state.params, state.batch_stats, frozen)
    return state.replace(tx=frozen_tx, opt_state=carried.opt_state, frozen=paths), carried


class PhasedSchedule(abc.ABC):
    """What is frozen in which epoch."""

    @abc.abstractmethod
    def check(self, params: Any, epochs: float) -> None:
        """Raise ValueError unless the schedule fits the network and the length of the run.

        Args:
          params: the parameters, or their shapes.
          epochs: length of the run.
        """

    @abc.abstractmethod
    def frozen_mask(self, params: Any, epoch: int) -> Any:
        """Return a tree like ``params``: True where a leaf is frozen in ``epoch`` (counted from 0)."""

    def advance(self, state: TrainState, tx: optax.GradientTransformation, epoch: int) -> TrainState:
        """Return the state for ``epoch``: itself unless a phase begins, so that a compiled step goes on.

        Args:
          state: on one device (unreplicated), of any epoch before.
          tx: the optimizer, without `freeze`.
          epoch: counted from 0.
        """
        mask = self.frozen_mask(state.params, epoch)
        if frozen_variables(state.params, state.batch_stats, mask) == state.frozen:
            return state
        return refreeze(state, tx, mask)[0]


@dataclasses.dataclass(frozen=True)
class FreezeSchedule(PhasedSchedule):
    """What no longer trains from which epoch on.

    Each phase compiles once, and costs less from then on: what is frozen needs no backward pass.

    >>> schedule = FreezeSchedule(phases=((3, ("stem",)),))
    >>> schedule.frozen_mask({"stem": {"bias": 0}, "head": {"kernel": 0}}, epoch=3)
    {'head': {'kernel': False}, 'stem': {'bias': True}}

    Attributes:
      phases: (first epoch, patterns that are frozen from then on), in order.
      always: patterns that are frozen throughout.
    """

    phases: tuple[tuple[int, tuple[str, ...]], ...]
    always: tuple[str, ...] = ()

    def check(self, params: Any, epochs: float) -> None:
        """See `PhasedSchedule`."""
        frozen = select(params, self.always, what="frozen")
        for start, patterns in self.phases:
            if not 0 < start < epochs:
                raise ValueError(
                    f"freeze_from names epoch {start}, which must lie behind the start and before the end of a run of "
                    f"{epochs:g} epochs; what is frozen throughout belongs to frozen"
                )
            chosen = select(params, patterns, what=f"freeze_from epoch {start}")
            if chosen <= frozen:
                raise ValueError(f"freeze_from epoch {start}: {', '.join(patterns)} is frozen already; leave it out")
            frozen |= chosen
        # Something is left to train.
        frozen_paths(params, sorted(frozen))

    def frozen_mask(self, params: Any, epoch: int) -> Any:
        """See `PhasedSchedule`."""
        patterns = [*self.always, *(pattern for start, added in self.phases if start <= epoch for pattern in added)]
        frozen = select(params, patterns, what="freeze_from")
        return map_by_path(lambda path, leaf: path in frozen, params)


@dataclasses.dataclass(frozen=True)
class UnfreezeSchedule(PhasedSchedule):
    """What trains from which epoch on; made by `unfreeze_schedule`.

    Attributes:
      phases: (first epoch, patterns that begin to train then), in order.
    """

    phases: tuple[tuple[int, tuple[str, ...]], ...]

    def check(self, params: Any, epochs: float) -> None:
        """See `PhasedSchedule`."""
        last, training = self.phases[-1][0], frozenset[str]()
        if last >= epochs:
            raise ValueError(f"the run ends after {epochs:g} epochs, before something is unfrozen at epoch {last}")
        for start, patterns in self.phases:
            chosen = select(params, patterns, what=f"unfreeze at epoch {start}")
            if chosen <= training:
                raise ValueError(f"unfreeze at epoch {start}: {', '.join(patterns)} trains already; leave it out")
            training |= chosen

    def frozen_mask(self, params: Any, epoch: int) -> Any:
        """See `PhasedSchedule`."""
        patterns = [pattern for start, added in self.phases if start <= epoch for pattern in added]
        training = select(params, patterns, what="unfreeze")
        return map_by_path(lambda path, leaf: path not in training, params)


def unfreeze_schedule(phases: Mapping[int, str | Sequence[str]]) -> UnfreezeSchedule:
    """Return a schedule that thaws parts of a network in the course of a run, from the head down.

    >>> schedule = unfreeze_schedule({0: ["head/*"], 5: ["stage4/*"], 10: ["**"]})
    >>> schedule.frozen_mask({"stage3": {"kernel": 0}, "stage4": {"kernel": 0}, "head": {"kernel": 0}}, epoch=7)
    {'head': {'kernel': False}, 'stage3': {'kernel': True}, 'stage4': {'kernel': False}}

    Each phase compiles once. Moments of what is thawed start at zero, see `carry_over`.

    Source: Howard and Ruder 2018, arXiv:1801.06146, section 3.3 (gradual unfreezing); differs: any epochs and parts.

    Args:
      phases: epoch (counted from 0) -> patterns that train from then on, besides those of earlier epochs.
    Raises:
      ValueError: nothing trains from epoch 0; a negative epoch, or one that is no whole number; an empty phase.
    """
    ordered = []
    for epoch, patterns in sorted(phases.items()):
        if not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"an epoch of unfreeze_schedule must be a whole number from 0, got {epoch!r}")
        if not patterns:
            raise ValueError(f"unfreeze_schedule has no pattern for epoch {epoch}; leave the epoch out")
        ordered.append((epoch, (patterns,) if isinstance(patterns, str) else tuple(patterns)))
    if not ordered or ordered[0][0] != 0:
        raise ValueError("unfreeze_schedule must say what trains from epoch 0 on; add {0: ['head/*']}")
    return UnfreezeSchedule(tuple(ordered))
