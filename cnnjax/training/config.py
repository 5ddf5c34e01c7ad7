"""What a run is: a typed config, each field a flag."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

from cnnjax import finetune
from cnnjax.data.augment import parse_all
from cnnjax.data.files import OnBadImage
from cnnjax.data.transforms import ResizerName
from cnnjax.models import model_info
from cnnjax.models.views import ViewsName
from cnnjax.nn.initialization import InitName
from cnnjax.places import local_path
from cnnjax.pretrained.flags import WeightsFlags
from cnnjax.training.flags import ConfigError, Flags
from cnnjax.training.losses import LossName
from cnnjax.training.optim import OF_ANY_LENGTH, SCHEDULES, WITH_MOMENTUM, OptimizerName, ScheduleName
from cnnjax.training.parallel import ParallelMode
from cnnjax.training.steps import LossReduction

# Where a run lies may differ between its processes; what it runs on and shows, between two parts of it, too. Everything
# else is part of what it computes.
LOCAL_FIELDS: Set[str] = {"workdir", "data_dir", "memory_budget_mib", "process_id", "workers", "compilation_cache"}
FREE_FIELDS: Set[str] = LOCAL_FIELDS | {
    *("parallel", "coordinator", "num_processes", "coordinator_timeout", "skip_nonfinite", "tensorboard", "profile"),
    *("steps_per_dispatch", "data_on_device", "wandb", "explain_every", "resizer"),
}
NormalizationName = Literal["auto", "data", "model"]
# In place of weights: parameters as the network's authors draw them.
DRAWN = "drawn"


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
        parse_steps(self.profile)
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
class ClassifierData(DataFlags):
    """What is learnt from."""

    dataset: str = "digits"
    """Data set: digits or faces (neither needs a download), an image-classification set of TFDS, or your own images as
    folder, csv or npz."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets (None: ~/tensorflow_datasets); for folder, csv and npz, the data itself."""
    train_split: str = "train"
    """Examples to train on, in the notation of TFDS: train[:10%], train+validation."""
    test_split: str | None = None
    """Examples to test on; None takes test, or validation if there is no test split. Where a data set has no validation
    split, "validation" holds out a tenth of train."""
    train_examples: int | None = None
    """Number of images of the training split to use, counted from the first; None uses all."""
    test_examples: int | None = None
    """Number of images of the test split to use, counted from the first; None uses all."""
    on_bad_image: OnBadImage = "error"
    """What to do about unusable images: error refuses the data set, skip omits them and lists them in config.json."""
    normalization: NormalizationName = "auto"
    """Mean and standard deviation to normalise with: data computes them from the training images; model takes those of
    the weights, or the published ones without --weights; auto means model with --weights, and otherwise data if the
    images fit into memory."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None takes the size that the weights were trained with, or, without
    --weights, the data set's own size if the network accepts it and the network's size otherwise."""
    augment: tuple[str, ...] = ("crop:2",)
    """Augmentations, applied in the order given: each is a name, optionally with values after a colon (crop:4 mirror
    randaugment:2,9 mixup:0.2); see docs/augmentation.md. Nothing after the flag means none."""
    memory_budget_mib: int = 2048
    """Memory, in MiB, up to which a data set of images of one size is decoded once and kept."""
    resizer: ResizerName = "auto"
    """Library that resizes images; auto takes cykooz (the extra "fast") where it is installed and pillow elsewhere. A
    resumed run keeps the library that it began with."""
    workers: int = 0
    """Number of processes that decode training images not kept in memory; 0 uses threads of this process. The order of
    images does not depend on it."""
    data_on_device: Literal["auto", "yes", "no"] = "auto"
    """Whether to keep the training images on the device; auto does so on GPUs and TPUs if they take at most a quarter
    of its memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierNetwork(WeightsFlags, NetworkFlags):
    """What learns, and what it starts from."""

    model: str = "lenet5"
    """Name of the network; python -m cnnjax.models lists them. With --weights that name their network, leave it out."""
    model_fields: tuple[str, ...] = ()
    """Fields of the network as NAME=VALUE, such as stochastic_depth_rate=0.1; all other fields follow the weights."""
    weights: str = DRAWN
    """Weights to start from: published ones, a file or a run (see docs/weights.md); drawn starts from random
    parameters. The classifier is always initialised anew. The weights' own fields and image format are used."""
    frozen: tuple[str, ...] = ()
    """Patterns of the parameters to freeze, such as stem "stage[1-3]"."""
    unfreeze: tuple[str, ...] = ()
    """Parts that start to train at an epoch (counted from 0), as EPOCH=PATTERN,...: "0=head" "5=stage4"."""
    freeze_from: tuple[str, ...] = ()
    """Parts that stop training at an epoch (counted from 0), as EPOCH=PATTERN,...: "3=stem/conv1/bias"."""
    learning_rate_scale: tuple[str, ...] = ()
    """Parts whose learning rate is multiplied, as PATTERN=FACTOR: "head=10"; the last pattern that matches counts."""
    weight_decay_scale: tuple[str, ...] = ()
    """Parts whose weight decay is multiplied, as PATTERN=FACTOR: "**/norm*=0"; the last pattern that matches counts."""
    init: InitName | None = None
    """Rule that initialises all kernels; None keeps the rule of the network's authors."""
    whitening_images: int = 0
    """Number of training images from which the first convolution gets filters that whiten its patches; 0 keeps the
    filters that were drawn. The filters train unless --frozen names them (stem/conv1/kernel)."""
    zero_init_residual: bool = False
    """Initialise the scale of each residual block's last normalisation to 0."""
    sync_batch_norm: bool = False
    """Compute batch norm's statistics over all devices, as jit always does; otherwise pmap computes them per device."""
    remat: bool = False
    """Recompute each stage's activations in the backward pass instead of keeping them: less memory, more time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOptimisation(OptimisationFlags):
    """How it learns, and for how long."""

    epochs: float = 30
    batch_size: int = 64
    accumulate: int = 1
    """Number of parts that each device's images are processed in, one after another, for one step of the batch."""
    steps_per_dispatch: int = 1
    """Number of steps per call of the device; more than 1 helps small networks on fast devices."""
    measure: Literal["accuracy", "top5_accuracy", "loss"] = "accuracy"
    """Test measure that chooses the best checkpoint and decides on early stopping."""
    loss: LossName = "cross_entropy"
    """Loss; binary_cross_entropy is for images with several classes at once; mse, mae and huber are for regression."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    aux_weight: float | None = None
    """Weight of each auxiliary head's loss; None means 0.3, and 0.4 for inception_v3."""
    l1: float = 0.0
    """L1 penalty: factor of the sum of absolute weights in the loss; reported losses leave it out."""
    l2: float = 0.0
    """L2 penalty: factor of half the sum of squared weights in the loss; reported losses leave it out."""
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.9
    """Momentum (sgd, rmsprop, lars and muon only)."""
    nesterov: bool = False
    """Use Nesterov momentum (sgd, rmsprop, lars and muon only)."""
    weight_decay: float = 1e-2
    decay_all: bool = False
    """Apply weight decay and penalties to biases and normalisation parameters too."""
    clip_value: float | None = None
    """Clip each number of the gradient to this absolute value; None does not clip."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm; None does not clip."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the parameters, which is then evaluated (the parameters themselves are
    reported as test_raw_*); 0 keeps no average."""
    lookahead: str | None = None
    """Slow weights, as STEPS,DECAY,POWER: every STEPS steps they keep the share DECAY * (step / steps of the run)^POWER
    of themselves and take the rest from the trained weights, which then start from them. The slow weights are
    evaluated. "5,0.5,0" is the published form."""
    loss_reduction: LossReduction = "mean"
    """Whether the gradient is that of the mean or of the sum of the batch's losses; reported losses are means."""
    test_time_augmentation: ViewsName = "none"
    """Views of each test image whose outputs are averaged in one more test at the end of the run (test_tta_*): mirror
    takes the image and its mirror image, mirror-shift also takes both shifted by one pixel."""
    learning_rate: float = 2e-3
    base_batch_size: int | None = None
    """Batch size that --learning-rate is meant for: the rate is scaled with --batch-size. None does not scale it."""
    start_factor: float = 0.0
    """Learning rate at the start of warm-up, as a share of the peak."""
    final_factor: float = 0.0
    """Learning rate at the end of the run, as a share of the peak (cosine and polynomial only)."""
    milestones: tuple[float, ...] = ()
    """Epochs after which the rate decays (multistep only); by default after 50 % and 75 % of the run."""
    decay_epochs: float | None = None
    """Epochs per decay by --decay-rate (step and exponential only)."""
    decay_rate: float = 0.1
    """Factor of each decay (step, multistep and exponential only)."""
    power: float = 1.0
    """Exponent of the decay (polynomial only)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierRun(RunFlags):
    """Where it runs and what it leaves."""

    recipe: str = "digits-lenet5"
    """Recipe: a named set of defaults for all other flags."""
    workdir: Path | None = None
    """Folder of the run, on this machine or in a bucket (gs://...); None means runs/<model>-<dataset>, or
    runs/finetune-<model>-<dataset> with --weights."""
    log_steps: int = 100
    per_class: bool = False
    """Report the accuracy of each class too."""
    explain_every: int = 0
    """Draw explanations of four test images every this many epochs; 0 never does."""
    coordinator: str | None = None
    """Address of process 0, as HOST:PORT, in a run of several processes; TPU pods and SLURM do not need it."""
    process_id: int | None = None
    """Rank of this process, counted from 0."""
    num_processes: int | None = None
    """Number of processes in the run; 1 does not look for others."""
    coordinator_timeout: float = 30.0
    """Number of seconds to wait for the other processes."""


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
                ("steps_per_dispatch", self.steps_per_dispatch >= 1, "at least 1"),
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
                    for name in ("image_size", "train_examples", "test_examples")
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
        fields: dict[str, Any] = {}
        for text in self.model_fields:
            name, separator, value = text.partition("=")
            if not name or not separator:
                raise ConfigError(f"model_fields must be NAME=VALUE, got {text!r}")
            try:
                fields[name] = json.loads(value)
            except json.JSONDecodeError:
                fields[name] = value
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
        return _factors(
            "learning_rate_scale",
            self.learning_rate_scale,
            "a factor above 0 (such as head=10; --frozen keeps parameters as they are)",
            lambda factor: 0 < factor < math.inf,
        )

    @property
    def decay_factors(self) -> dict[str, float]:
        """Weight-decay factors by pattern."""
        return _factors(
            "weight_decay_scale",
            self.weight_decay_scale,
            "a factor of at least 0 (such as **/norm*=0)",
            lambda factor: 0 <= factor < math.inf,
        )

    @property
    def freezing(self) -> finetune.UnfreezeSchedule | finetune.FreezeSchedule | None:
        """What trains from which epoch on, or no longer does; None: the same throughout."""
        if self.freeze_from:
            phases = _phases("freeze_from", self.freeze_from, "3=stem 5=stage1")
            return finetune.FreezeSchedule(tuple(sorted(phases.items())), self.frozen)
        phases = _phases("unfreeze", self.unfreeze, "0=head 5=stage4")
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
        if self.lookahead is None:
            return None
        match = re.fullmatch(r"(\d+),([\d.]+),([\d.]+)", self.lookahead)
        try:
            steps, decay, power = int(match[1]), float(match[2]), float(match[3])  # type: ignore[index]
        except (TypeError, ValueError):
            steps, decay, power = 0, 0.0, 0.0
        if steps < 1 or not 0 <= decay < 1:
            raise ConfigError(
                "lookahead must be STEPS,DECAY,POWER with at least 1 step and a decay from 0 to below 1, such as "
                f"5,0.5,0, got {self.lookahead!r}"
            )
        return steps, decay, power

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


def _factors(flag: str, texts: Sequence[str], expected: str, allowed: Callable[[float], bool]) -> dict[str, float]:
    """Return factors by pattern, of texts PATTERN=FACTOR."""
    found = {}
    for text in texts:
        pattern, separator, factor = text.rpartition("=")
        try:
            found[pattern] = float(factor)
        except ValueError:
            separator = ""
        if not separator or not allowed(found[pattern]):
            raise ConfigError(f"{flag} must be PATTERN=FACTOR with {expected}, got {text!r}")
    return found


def _phases(flag: str, texts: Sequence[str], example: str) -> dict[int, tuple[str, ...]]:
    """Return patterns by epoch, of texts EPOCH=PATTERN,..."""
    phases: dict[int, tuple[str, ...]] = {}
    for text in texts:
        epoch, separator, patterns = text.partition("=")
        if not separator or not epoch.isdecimal() or not all(patterns.split(",")):
            raise ConfigError(f"{flag} must be EPOCH=PATTERN,... with epochs from 0 (such as {example}), got {text!r}")
        phases[int(epoch)] = phases.get(int(epoch), ()) + tuple(patterns.split(","))
    return phases


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Return the first and the last step of "A:B"; steps count from 1.

    Raises:
      ConfigError: anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"profile must be A:B, steps from 1 with A at most B, got {text!r}")
    return int(match[1]), int(match[2])
