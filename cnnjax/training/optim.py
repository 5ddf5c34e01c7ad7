"""Optimizers and learning-rate schedules, from optax, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from cnnjax.finetune.paths import last_match, map_by_path
from cnnjax.models.classifiers import classifier_of

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "lamb", "lars", "adagrad", "lion", "muon"]
ScheduleName = Literal["constant", "step", "multistep", "exponential", "cosine", "polynomial", "onecycle"]
OPTIMIZERS = get_args(OptimizerName)
SCHEDULES = get_args(ScheduleName)
# Schedules whose rates are the same in a longer run.
OF_ANY_LENGTH: tuple[ScheduleName, ...] = ("constant", "step", "exponential")
# Optimizers whose momentum can be chosen, and optimizers that subtract decayed weights from the update instead of
# adding them to the gradient.
WITH_MOMENTUM: tuple[OptimizerName, ...] = ("sgd", "rmsprop", "lars", "muon")
DECOUPLED = ("adamw", "lamb", "lion")
# What Jordan's program for CIFAR-10 takes: steps of Newton and Schulz, and momentum of what Muon is not for.
MUON_STEPS, MUON_SGD_MOMENTUM = 3, 0.85
# Share of a one-cycle schedule that rises, unless a warm-up says otherwise. Smith and Topin 2017, arXiv:1708.07120, let
# it rise for somewhat less than half of the run; PyTorch's and optax's default is this.
ONECYCLE_RISE = 0.3


def make_schedule(
    name: ScheduleName,
    learning_rate: float,
    num_steps: int,
    *,
    warmup_steps: int = 0,
    start_factor: float = 0.0,
    final_factor: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    decay: float = 0.1,
    decay_steps: float | None = None,
    power: float = 1.0,
) -> optax.Schedule:
    """Return the learning rate as a function of the step; every schedule is as long as the run.

    - ``constant``
    - ``step``: times ``decay`` after every ``decay_steps`` steps; ``exponential``: the same course without steps.
    - ``multistep``: times ``decay`` at each milestone.
    - ``cosine``: half a period from the rate to its ``final_factor``. Loshchilov and Hutter 2016, arXiv:1608.03983,
      equation 5, without restarts.
    - ``polynomial``: to the ``final_factor`` as (1 - t)^power.
    - ``onecycle``: up from 1/25 and down to 1/250,000 of the rate along cosines; the warm-up is its rise, 30 % of the
      run if there is none. Smith and Topin 2017, arXiv:1708.07120, as in PyTorch; momentum stays as it is.

    Args:
      name: one of these.
      learning_rate: after warm-up.
      num_steps: length of the run.
      warmup_steps: steps of linear rise. What decays by steps or milestones counts from the start of the run; the
        others fall from the end of the warm-up.
      start_factor: where the warm-up starts, as a share of the learning rate.
      final_factor: where ``cosine`` and ``polynomial`` end, as a share of the learning rate.
      milestones: as fractions of the run.
      decay: factor at a milestone or step.
      decay_steps: steps between two of ``step``, or for ``exponential`` to fall by the factor.
      power: exponent of ``polynomial``.
    Raises:
      ValueError: an unknown name, or what does not fit a run of this length.
    """
    after = num_steps - warmup_steps
    if after < 1:
        raise ValueError(f"warm-up of {warmup_steps} steps leaves nothing of a run of {num_steps} steps; shorten it")
    if name in ("step", "exponential"):
        if decay_steps is None:
            raise ValueError(f"schedule {name} needs a decay interval; give --decay-epochs")
        if decay_steps >= num_steps:
            raise ValueError(
                f"schedule {name} decays first after {decay_steps:g} steps, the run ends after {num_steps}; "
                "shorten --decay-epochs or lengthen the run"
            )
    if name == "multistep" and not all(0 < fraction < 1 for fraction in milestones):
        steps = ", ".join(f"{fraction * num_steps:g}" for fraction in milestones)
        raise ValueError(
            f"milestones must lie within the run of {num_steps} steps, got steps {steps}; move them or change the run"
        )
    if name == "onecycle":
        rise = warmup_steps or max(round(ONECYCLE_RISE * num_steps), 1)
        return optax.cosine_onecycle_schedule(num_steps, learning_rate, pct_start=rise / num_steps)

    if name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, after, alpha=final_factor)
    elif name == "polynomial":
        schedule = optax.polynomial_schedule(learning_rate, learning_rate * final_factor, power, after)
    elif name == "multistep":
        boundaries = [round(fraction * num_steps) - warmup_steps for fraction in milestones]
        schedule = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(boundaries, decay))
    elif name == "step":
        schedule = _later(optax.exponential_decay(learning_rate, decay_steps, decay, staircase=True), warmup_steps)
    elif name == "exponential":
        schedule = optax.exponential_decay(learning_rate, decay_steps, decay)
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if warmup_steps == 0:
        return schedule
    warmup = optax.linear_schedule(start_factor * learning_rate, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def _later(schedule: optax.Schedule, steps: int) -> optax.Schedule:
    """Return ``schedule`` as it goes on after its first ``steps``."""
    return lambda step: schedule(step + steps)


def decayed_leaves(params: Any) -> Any:
    """Return a mask that leaves biases and normalisation (vectors) out of weight decay."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def every_leaf(params: Any) -> Any:
    """Return a mask that leaves nothing out."""
    return jax.tree.map(lambda leaf: True, params)


def make_optimizer(
    name: OptimizerName,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_all: bool = False,
    decay_factors: Mapping[str, float] | None = None,
    l1: float = 0.0,
    l2: float = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Return an optimizer that adds penalties to the gradient, clips it, and then takes the named optimizer's step.

    Three things pull weights towards zero. ``l1`` and ``l2`` are terms of the loss, l1 sum|w| + l2 / 2 sum w^2, whose
    gradient is clipped and scaled with the rest (the loss that is reported is without them, so that train and test
    compare). ``weight_decay`` comes after clipping: ``sgd``, ``adam``, ``rmsprop``, ``adagrad`` and ``lars`` add it to
    the gradient as ``l2`` does; ``adamw``, ``lamb`` and ``lion`` subtract learning rate times weight decay times w,
    whatever the gradient (Loshchilov and Hutter 2017, arXiv:1711.05101). None touches biases and norms by default.

    Args:
      name: ``sgd`` (heavy ball), ``adam``, ``adamw``, ``rmsprop`` (as EfficientNet's authors: decay 0.9, epsilon 1e-3
        under the root, mean square starting at 1; Tan and Le 2019, arXiv:1905.11946, section 5.2), ``lamb``
        (arXiv:1904.00962), ``lars`` (arXiv:1708.03888; biases and norms take plain steps), ``adagrad``, ``lion``
        (arXiv:2302.06675), ``muon`` (see `muon`; decay is that of its ``sgd``).
      learning_rate: a number or a schedule.
      momentum: used by ``sgd``, ``rmsprop``, ``lars`` and ``muon`` only.
      nesterov: Nesterov's form of the momentum, for the same four.
      weight_decay: see above.
      decay_all: penalties and decay act on biases and norms too.
      decay_factors: pattern (see `cnnjax.finetune.freeze`) -> factor of the ``weight_decay`` of what it matches; where
        several match, the last one counts. None: 1 everywhere.
      l1, l2: factors of the penalties, see above.
      clip_value: largest absolute value of each number of the gradient; None does not clip.
      clip_norm: largest norm of the whole gradient; None does not clip.
    Raises:
      ValueError: an unknown name.
    """
    mask = every_leaf if decay_all else decayed_leaves
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")

    def with_decay(weight_decay: float) -> optax.GradientTransformation:
        return _optimizer(name, learning_rate, momentum, nesterov, weight_decay, mask)

    parts = []
    if l1 or l2:
        parts.append(penalties(l1, l2, mask))
    if clip_value is not None:
        parts.append(optax.clip(clip_value))
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if decay_factors:
        factors = dict(decay_factors)
        groups = {factor: with_decay(weight_decay * factor) for factor in {*factors.values(), 1.0}}
        parts.append(
            optax.partition(groups, lambda params: _labelled(lambda path, _: last_match(path, factors, 1.0), params))
        )
    else:
        parts.append(with_decay(weight_decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _optimizer(
    name: OptimizerName,
    learning_rate: optax.ScalarOrSchedule,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    mask: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Return an optimizer with its weight decay; see `make_optimizer`."""
    if name == "muon":
        return muon(learning_rate, momentum, nesterov=nesterov, weight_decay=weight_decay, mask=mask)
    chains: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.sgd(learning_rate, momentum, nesterov),
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask),
        "rmsprop": lambda: optax.rmsprop(
            learning_rate, decay=0.9, eps=1e-3, initial_scale=1.0, momentum=momentum, nesterov=nesterov
        ),
        "lamb": lambda: optax.lamb(learning_rate, weight_decay=weight_decay, mask=mask),
        "lars": lambda: optax.lars(
            learning_rate,
            weight_decay=weight_decay,
            weight_decay_mask=mask,
            trust_ratio_mask=decayed_leaves,
            momentum=momentum,
            nesterov=nesterov,
        ),
        "adagrad": lambda: optax.adagrad(learning_rate),
        "lion": lambda: optax.lion(learning_rate, weight_decay=weight_decay, mask=mask),
    }
    # Lars takes its trust ratio of gradient and decay together.
    if weight_decay and name not in (*DECOUPLED, "lars"):
        return optax.chain(optax.add_decayed_weights(weight_decay, mask), chains[name]())
    return chains[name]()


def _labelled(label: Callable[[str, Any], Any], params: Any) -> Any:
    """Return a tree of labels of (path, leaf); what optax has masked out stays masked."""
    return map_by_path(lambda path, leaf: leaf if isinstance(leaf, optax.MaskedNode) else label(path, leaf), params)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.6,
    *,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    mask: Callable[[Any], Any] = decayed_leaves,
) -> optax.GradientTransformation:
    """Return Muon for the kernels of convolutions, and Nesterov's SGD for everything else.

    The momentum of a kernel, as a matrix of windows by outputs, is replaced by about the nearest orthogonal one, by
    three steps of Newton and Schulz's iteration; and before each step the kernel is scaled to a norm of sqrt(outputs),
    so that it needs no decay. What else there is (biases, norms, dense layers, classifiers) is trained by SGD with
    momentum 0.85; give it a learning rate of its own by `cnnjax.finetune.scale_learning_rate`.

    ``optax.contrib.muon`` differs: it takes matrices alone unless it is told which axes are what, AdamW for the rest,
    five steps, scales updates by their shape, and does not scale kernels.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with the values of Jordan's
    program for CIFAR-10; differs: computes in the gradients' type instead of bfloat16, and corrects the momentum for
    its start as optax does.

    Args:
      learning_rate: of both, a number or a schedule.
      momentum: of Muon.
      nesterov: of Muon.
      weight_decay: of the rest, added to its gradient.
      mask: which of the rest decays.
    """

    def kind(path: str, leaf: Any) -> str:
        return "muon" if leaf.ndim > 2 and classifier_of(path) is None else "sgd"

    def axes(updates: Any) -> Any:
        return jax.tree.map(lambda leaf: contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), -1), updates)

    orthogonal = contrib.scale_by_muon(
        ns_steps=MUON_STEPS, beta=momentum, nesterov=nesterov, weight_dimension_numbers=axes
    )
    kernels = optax.chain(orthogonal, optax.scale_by_learning_rate(learning_rate), keep_kernel_norms())
    rest = optax.sgd(learning_rate, MUON_SGD_MOMENTUM, nesterov=True)
    if weight_decay:
        rest = optax.chain(optax.add_decayed_weights(weight_decay, mask), rest)
    return optax.partition({"muon": kernels, "sgd": rest}, lambda params: _labelled(kind, params))


def keep_kernel_norms() -> optax.GradientTransformation:
    """Return what, behind an optimizer, makes it step from kernels that were scaled to a norm of sqrt(outputs)."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def with_scaling(update: jax.Array, kernel: jax.Array) -> jax.Array:
            norm = jnp.maximum(jnp.linalg.norm(kernel.reshape(-1)), 1e-7)
            return update + (kernel.shape[-1] ** 0.5 / norm - 1) * kernel

        return jax.tree.map(with_scaling, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def penalties(l1: float, l2: float, mask: Callable[[Any], Any] = decayed_leaves) -> optax.GradientTransformation:
    """Return what adds the gradient of l1 sum|w| + l2 / 2 sum w^2 over the leaves that ``mask`` selects."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        added = jax.tree.map(lambda grad, leaf: grad + l1 * jnp.sign(leaf) + l2 * leaf, updates, params)
        return added, state

    return optax.masked(optax.GradientTransformation(lambda params: optax.EmptyState(), update), mask)
