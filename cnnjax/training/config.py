"""What a run that trains a classifier is asked to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax import finetune
from cnnjax.models import model_info
from cnnjax.training.classifier_flags import (
    DRAWN,
    ClassifierData,
    ClassifierNetwork,
    ClassifierOptimisation,
    ClassifierRun,
)
from cnnjax.training.flag_texts import factors_of, fields_of, lookahead_of, patterns_by_epoch
from cnnjax.training.flags import ConfigError
from cnnjax.training.optim import SCHEDULES, WITH_MOMENTUM, OptimizerName, ScheduleName
from cnnjax.training.run_config import RunConfig


def require_classifier(model: str) -> None:
    """Refuse a variant that is unknown or no classifier.

    Raises:
      ConfigError: the name, and what to take.
    """
    try:
        info = model_info(model)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if info.task != "classification":
        raise ConfigError(f"{model} is a network for {info.task}; take one whose task is classification")


# Flags that only some schedules or optimizers use, and which; see `unused_flags`.
OF_SCHEDULES: Mapping[str, tuple[ScheduleName, ...]] = {
    "milestones": ("multistep",),
    "decay_epochs": ("step", "exponential"),
    "decay_rate": ("step", "multistep", "exponential"),
    "final_factor": ("cosine", "polynomial"),
    "power": ("polynomial",),
    # One-cycle has a rise of its own.
    "start_factor": tuple(name for name in SCHEDULES if name != "onecycle"),
}
OF_OPTIMIZERS: Mapping[str, tuple[OptimizerName, ...]] = {"momentum": WITH_MOMENTUM, "nesterov": WITH_MOMENTUM}


def unused_flags(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return which flags of a `TrainConfig` do nothing beside the others, and why.

    Args:
      flags: all of them by name, or at least ``schedule``, ``optimizer`` and ``warmup_epochs``.
    """
    unused = {}
    for of, key in ((OF_SCHEDULES, "schedule"), (OF_OPTIMIZERS, "optimizer")):
        for name, users in of.items():
            if flags[key] not in users:
                unused[name] = f"{name} is for {key} {_any_of(users)}, and {key} is {flags[key]}"
    if not flags["warmup_epochs"] and "start_factor" not in unused:
        unused["start_factor"] = "start_factor is where warm-up starts, and warmup_epochs is 0"
    return unused


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(ClassifierRun, ClassifierOptimisation, ClassifierNetwork, ClassifierData, RunConfig):
    """A training run. Every field is a flag of ``experiments/train.py``."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        inf = math.inf
        at_least_0, share = "at least 0 and finite", "at least 0 and below 1"
        self.require(
            [
                ("accumulate", self.accumulate >= 1, "at least 1"),
                (
                    "accumulate",
                    self.accumulate < 1 or self.batch_size % self.accumulate == 0,
                    f"a divisor of batch_size ({self.batch_size})",
                ),
                ("label_smoothing", 0 <= self.label_smoothing < 1, share),
                (
                    "label_smoothing",
                    self.label_smoothing == 0 or self.loss in ("cross_entropy", "binary_cross_entropy"),
                    f"0 with loss {self.loss}",
                ),
                ("aux_weight", self.aux_weight is None or 0 <= self.aux_weight < inf, at_least_0),
                ("l1", 0 <= self.l1 < inf, at_least_0),
                ("l2", 0 <= self.l2 < inf, at_least_0),
                ("momentum", 0 <= self.momentum < 1, share),
                ("clip_value", self.clip_value is None or 0 < self.clip_value < inf, "above 0 and finite"),
                ("clip_norm", self.clip_norm is None or 0 < self.clip_norm < inf, "above 0 and finite"),
                ("ema_decay", 0 <= self.ema_decay < 1, share),
                ("base_batch_size", self.base_batch_size is None or self.base_batch_size >= 1, "at least 1"),
                ("start_factor", 0 <= self.start_factor <= 1, "from 0 to 1"),
                ("final_factor", 0 <= self.final_factor <= 1, "from 0 to 1"),
                (
                    "milestones",
                    all(0 < epoch < self.epochs for epoch in self.milestones),
                    f"above 0 and below epochs ({self.epochs})",
                ),
                (
                    "decay_epochs",
                    self.decay_epochs is None or 0 < self.decay_epochs < self.epochs,
                    f"above 0 and below epochs ({self.epochs})",
                ),
                (
                    "decay_epochs",
                    self.decay_epochs is not None or self.schedule not in ("step", "exponential"),
                    f"given for schedule {self.schedule}",
                ),
                ("decay_rate", 0 < self.decay_rate <= 1, "above 0 and at most 1"),
                ("power", 0 < self.power < inf, "above 0 and finite"),
                *(
                    (name, (count := getattr(self, name)) is None or count >= 1, "at least 1")
                    for name in ("image_size", "train_examples", "test_examples", "steps_per_dispatch")
                ),
                (
                    "whitening_images",
                    self.whitening_images == 0 or (self.whitening_images > 0 and self.weights == DRAWN),
                    "at least 0, and 0 with weights that are not drawn",
                ),
                ("lookahead", self.lookahead is None or not self.ema_decay, "left out with ema_decay"),
                ("init", self.init is None or self.weights == DRAWN, f"left out with weights {self.weights}"),
                ("entry", self.entry is None or self.weights != DRAWN, f"left out with weights {DRAWN}"),
                ("channels", self.channels is None or self.fine_tuning, f"left out with weights {DRAWN}"),
                ("channels", self.channels is None or self.channels >= 1, "at least 1"),
                ("memory_budget_mib", self.memory_budget_mib >= 0, "at least 0"),
                ("workers", self.workers >= 0, "at least 0"),
                ("explain_every", self.explain_every >= 0, "at least 0"),
                ("coordinator_timeout", 0 < self.coordinator_timeout < inf, "above 0 and finite"),
            ]
        )
        try:
            model_info(self.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, why in unused_flags(vars(self)).items():
            if (value := getattr(self, name)) != defaults[name]:
                raise ConfigError(f"{why}: leave it out, got {value}")
        self.network_fields()
        if self.unfreeze and (self.frozen or self.freeze_from):
            other = "--frozen" if self.frozen else "--freeze-from"
            raise ConfigError(f"{other} and --unfreeze both say what trains; give one of them")
        # What they say is read now, so that it fails now.
        _ = self.factors, self.decay_factors, self.freezing, self.lookahead_values

    def network_fields(self) -> dict[str, Any]:
        """Return the fields of the network that the config sets, by name."""
        fields = fields_of("model_fields", self.model_fields)
        return fields | {name: True for name in ("zero_init_residual", "remat") if getattr(self, name)}

    @property
    def fine_tuning(self) -> bool:
        """Whether the network and what it takes are those of known weights, rather than of the data."""
        return self.weights != DRAWN

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        return f"{'finetune-' if self.fine_tuning else ''}{self.model}-{self.dataset}"

    @property
    def begin_from(self) -> str:
        """How a new run begins with what this one learnt, in words."""
        return f", with --weights {self.run_directory} to begin with what this one has learnt (but for its classifier)"

    @property
    def factors(self) -> dict[str, float]:
        """Learning-rate factors by pattern."""
        return factors_of(
            "learning_rate_scale",
            self.learning_rate_scale,
            "a factor above 0 (such as head=10; --frozen keeps parameters as they are)",
            lambda factor: 0 < factor < math.inf,
        )

    @property
    def decay_factors(self) -> dict[str, float]:
        """Weight-decay factors by pattern."""
        return factors_of(
            "weight_decay_scale",
            self.weight_decay_scale,
            "a factor of at least 0 (such as **/norm*=0)",
            lambda factor: 0 <= factor < math.inf,
        )

    @property
    def freezing(self) -> finetune.UnfreezeSchedule | finetune.FreezeSchedule | None:
        """What begins or ceases to train at which epoch; None: the same parts train throughout."""
        if self.freeze_from:
            phases = patterns_by_epoch("freeze_from", self.freeze_from, "3=stem 5=stage1")
            return finetune.FreezeSchedule(tuple(sorted(phases.items())), self.frozen)
        phases = patterns_by_epoch("unfreeze", self.unfreeze, "0=head 5=stage4")
        if not phases:
            return None
        if 0 not in phases:
            raise ConfigError(
                f"unfreeze must say what trains from epoch 0 on, got {' '.join(self.unfreeze)}; add 0=head"
            )
        return finetune.unfreeze_schedule(phases)

    @property
    def lookahead_values(self) -> tuple[int, float, float] | None:
        """Steps, decay and power of lookahead; None: there is none."""
        return None if self.lookahead is None else lookahead_of(self.lookahead)

    @property
    def keeps_averages(self) -> bool:
        """Whether the state has other weights beside those that are trained: moving averages, or slow ones."""
        return self.ema_decay > 0 or self.lookahead is not None

    def lengthens(self, saved: Mapping[str, Any]) -> bool:
        """Return whether this is the run that `normal` gave, only longer, with the same steps until then."""
        # Shares that grow in the course of the run depend on its length.
        same = self.lookahead_values is None or self.lookahead_values[2] == 0
        return same and super().lengthens(saved)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up, scaled with the batch if that was asked for.

        Source: Goyal et al. 2017, arXiv:1706.02677, section 2.1.
        """
        return self.learning_rate * self.batch_size / (self.base_batch_size or self.batch_size)

    def schedule_options(self, steps_an_epoch: float) -> dict[str, Any]:
        """Return what `make_schedule` is told besides name, rate and length."""
        return super().schedule_options(steps_an_epoch) | {
            "start_factor": self.start_factor,
            "final_factor": self.final_factor,
            "milestones": [epoch / self.epochs for epoch in self.milestones] or (0.5, 0.75),
            "decay": self.decay_rate,
            "decay_steps": None if self.decay_epochs is None else self.decay_epochs * steps_an_epoch,
            "power": self.power,
        }

    def optimizer_options(self) -> dict[str, Any]:
        """Return what `make_optimizer` is told besides name and rate."""
        names = ("momentum", "nesterov", "weight_decay", "decay_all", "l1", "l2", "clip_value", "clip_norm")
        return {name: getattr(self, name) for name in names} | {"decay_factors": self.decay_factors}

    @classmethod
    def normal(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return all flags by name, of what `to_json` gave, with defaults for those it has not or that do nothing."""
        flags = super().normal(saved)
        defaults = super().normal({})
        return flags | {name: defaults[name] for name in unused_flags(flags)}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> TrainConfig:
        """Return the config of a run, from what `to_json` gave."""
        known: dict[str, Any] = {}
        for name, value in cls.normal(saved).items():
            is_path = name in ("data_dir", "workdir") and value is not None
            known[name] = Path(value) if is_path else tuple(value) if isinstance(value, list) else value
        return cls(**known)
