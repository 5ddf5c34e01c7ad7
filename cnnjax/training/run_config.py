"""What every kind of run is asked to be: a typed config, each field a flag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

from cnnjax.data.augment import parse_all
from cnnjax.places import local_path
from cnnjax.training.flag_texts import steps_of
from cnnjax.training.flags import ConfigError, Flags
from cnnjax.training.optim import OF_ANY_LENGTH, OptimizerName, ScheduleName
from cnnjax.training.parallel import ParallelMode

# Where a run lies may differ between its processes; what it runs on and shows, between two parts of it, too. Everything
# else is part of what it computes.
LOCAL_FIELDS: Set[str] = {"workdir", "data_dir", "memory_budget_mib", "process_id", "workers", "compilation_cache"}
FREE_FIELDS: Set[str] = LOCAL_FIELDS | {
    *("parallel", "coordinator", "num_processes", "coordinator_timeout", "skip_nonfinite", "tensorboard", "profile"),
    *("steps_per_dispatch", "data_on_device", "wandb", "explain_every", "resizer"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """What is learnt from."""

    title: ClassVar[str] = "data"

    dataset: str
    """Data set to train on."""
    data_dir: Path | None = None
    """Folder that holds the data."""
    augment: tuple[str, ...] = ()
    """Augmentations, applied in the order given: each is a name, optionally with values after a colon (crop:4 mirror
    rotate:15); see docs/augmentation.md. Nothing after the flag means none. Pixel labels and target images are moved
    with their image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """What learns."""

    title: ClassVar[str] = "network"

    model: str
    """Name of the network; python -m cnnjax.models lists them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to compute in; parameters, statistics, outputs and the loss are always float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimisationFlags:
    """How it learns, and for how long."""

    title: ClassVar[str] = "optimisation"

    epochs: float = 10
    """Number of passes over the training images."""
    batch_size: int = 64
    """Images per step, counted over all devices."""
    patience: int = 0
    """Stop after this many epochs without a better test measure; 0 never stops early."""
    optimizer: OptimizerName = "adam"
    """Optimizer (from optax)."""
    weight_decay: float = 0.0
    """Weight decay; biases and normalisation parameters are exempt. adamw, lamb and lion subtract it from the weights;
    the other optimizers add it, times the weights, to the clipped gradient."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after warm-up."""
    schedule: ScheduleName = "cosine"
    """Learning-rate schedule over the whole run."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly to its peak."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Where it runs and what it leaves."""

    title: ClassVar[str] = "run"

    workdir: Path | None = None
    """Folder of the run, on this machine or in a bucket (gs://...); None chooses a folder in runs/."""
    seed: int = 0
    """Seed for everything random: initial parameters, order of images, augmentation, dropout."""
    parallel: ParallelMode = "auto"
    """How devices share a step: jit and pmap use all devices, single uses one; auto takes pmap for several."""
    log_steps: int = 20
    """Number of steps between two training lines in metrics.jsonl."""
    checkpoint_steps: int = 0
    """Save a checkpoint every this many steps as well; 0 saves only at the end of each epoch."""
    skip_nonfinite: int = 0
    """Skip up to this many steps whose loss or gradient is not finite before stopping the run."""
    tensorboard: bool = False
    """Write the metrics as TensorBoard events too (needs the extra "tensorboard")."""
    wandb: str | None = None
    """Send the metrics to this Weights & Biases project too (needs the extra "wandb")."""
    profile: str | None = None
    """Write a profiler trace of steps A to B, given as A:B; TensorBoard's profile plugin and Perfetto show it."""
    deterministic: bool = False
    """On GPUs, let XLA make programs that give the same bits each time and however often they are compiled, at some
    cost in speed (docs/runs.md); changes nothing on CPUs and TPUs."""
    compilation_cache: str | None = None
    """Folder that keeps compiled programs, or off; by default a folder in the user's cache (docs/speed.md)."""


# Bases of a dataclass count from the last to the first.
@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(RunFlags, OptimisationFlags, NetworkFlags, DataFlags, Flags):
    """What every kind of run is asked to be: the flags that the loop and `cnnjax.training.setup.RunSetup` go by.

    A script's config is this with defaults and flags of its own: `TrainConfig` of classifiers, and
    `cnnjax.training.image_to_image.ImageToImageConfig` of networks that map images to images.
    """

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built, and find the home folder in paths that begin with ``~``.

        Raises:
          ConfigError: the first of them, and what is expected.
          PathError: a path that is neither of this machine nor in a bucket.
        """
        for name in ("data_dir", "workdir"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, local_path(path, name, buckets=True))
        self.require(
            [
                ("epochs", 0 < self.epochs < math.inf, "above 0 and finite"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("patience", self.patience >= 0, "at least 0"),
                ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
                ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
                (
                    "warmup_epochs",
                    0 <= self.warmup_epochs < self.epochs,
                    f"at least 0 and below epochs ({self.epochs})",
                ),
                ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
                ("log_steps", self.log_steps >= 1, "at least 1"),
                ("checkpoint_steps", self.checkpoint_steps >= 0, "at least 0"),
                ("skip_nonfinite", self.skip_nonfinite >= 0, "at least 0"),
            ]
        )
        steps_of(self.profile)
        try:
            parse_all(self.augment)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        return self.learning_rate

    def schedule_options(self, steps_an_epoch: float) -> dict[str, Any]:
        """Return what `make_schedule` is told besides name, rate and length."""
        return {"warmup_steps": round(self.warmup_epochs * steps_an_epoch)}

    def optimizer_options(self) -> dict[str, Any]:
        """Return what `make_optimizer` is told besides name and rate."""
        return {"weight_decay": self.weight_decay}

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        return f"{self.model}-{self.dataset}"

    @property
    def free_fields(self) -> Set[str]:
        """Flags that may change between two parts of the run."""
        return FREE_FIELDS

    def lengthens(self, saved: Mapping[str, Any]) -> bool:
        """Return whether this is the run that `normal` gave, only longer, with the same steps until then."""
        return self.schedule in OF_ANY_LENGTH and saved["epochs"] < self.epochs

    def way_out(self, differing: Set[str]) -> str:
        """Return what to do about a folder of a run that these flags differ from."""
        if differing != {"epochs"}:
            return super().way_out(differing)
        kept = ", ".join(OF_ANY_LENGTH[:-1])
        if self.schedule in OF_ANY_LENGTH:
            return "epochs can grow, and not shrink; give more of them, or another --workdir to start afresh"
        return (
            f"the rates of schedule {self.schedule} follow from the number of epochs, so that a longer run differs "
            f"from its first step on: start it in another --workdir{self.begin_from}. Runs with --schedule {kept} or "
            f"{OF_ANY_LENGTH[-1]} can be made longer"
        )

    @property
    def begin_from(self) -> str:
        """How a new run begins with what this one learnt, in words; empty if it cannot."""
        return ""
