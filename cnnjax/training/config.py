"""What a run is: a typed config, named recipes, and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import tyro

from cnnjax.data.files import OnBadImage
from cnnjax.models import model_info
from cnnjax.training.optim import OptimizerName, ScheduleName
from cnnjax.training.parallel import ParallelMode

NormalizationName = Literal["auto", "data", "model"]


class ConfigError(ValueError):
    """A config that cannot be run."""


class RunConfig(Protocol):
    """What the training loop asks of a script's config: a frozen dataclass whose fields are the script's flags."""

    @property
    def model(self) -> str:
        """Name of the network."""

    @property
    def dataset(self) -> str:
        """What the data are called."""

    @property
    def epochs(self) -> float:
        """Passes over the training examples."""

    @property
    def batch_size(self) -> int:
        """Examples a step, over all devices."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    @property
    def log_steps(self) -> int:
        """Steps between two training lines."""

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints; 0: only at the end of each epoch."""

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Every field is a flag of ``experiments/train.py``."""

    recipe: str = "digits-lenet5"
    """Named set of defaults for all other flags."""
    model: str = "lenet5"
    """Name of a network, see cnnjax.list_models()."""
    dataset: str = "digits"
    """digits, faces (both need no download), an image-classification set of TFDS, or your own: folder, csv, npz."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets (None: ~/tensorflow_datasets); of folder, csv and npz: the data itself."""
    train_split: str = "train"
    """Examples to train on, as TFDS writes them: train[:10%], train+validation."""
    test_split: str | None = None
    """Examples to test on; None: test, or else validation. "validation" holds out a tenth of train if need be."""
    on_bad_image: OnBadImage = "error"
    """Images that cannot be used: error refuses the set, skip leaves them out and lists them in config.json."""
    normalization: NormalizationName = "auto"
    """Mean and deviation: data: of the training images; model: the network's; auto: data if they fit into memory."""
    workdir: Path | None = None
    """Folder of the run; None: runs/<model>-<dataset>."""
    epochs: float = 30
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all devices."""
    learning_rate: float = 2e-3
    """After warm-up."""
    optimizer: OptimizerName = "adamw"
    """Optimizer, from optax."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 1e-2
    """Of weights; biases and normalisation do not decay."""
    schedule: ScheduleName = "cosine"
    """Course of the learning rate: cosine falls to 0, multistep divides by 10 at 50 % and 75 % of the run."""
    warmup_epochs: float = 0.0
    """Linear rise of the learning rate from 0."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    ema_decay: float = 0.0
    """Evaluate a moving average of the parameters with this decay a step; 0: evaluate the parameters."""
    image_size: int | None = None
    """Pixels, height and width; None: as the data set has them if the network takes that, else the network's."""
    crop_padding: int = 2
    """Augmentation: random crops after zero padding by this many pixels."""
    mirror: bool = False
    """Augmentation: flip half of the images left to right."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, statistics, logits and loss are float32 always."""
    seed: int = 0
    """Of everything random: parameters, order, augmentation, dropout."""
    parallel: ParallelMode = "auto"
    """jit, pmap: all devices, see README; single: one device; auto: pmap if there are several devices."""
    log_steps: int = 100
    """Steps between two training lines in metrics.jsonl."""
    checkpoint_steps: int = 0
    """Also save a checkpoint every so many steps; 0: only at the end of each epoch."""
    memory_budget_mib: int = 2048
    """Data sets of equally large images that take less are decoded once and kept in memory."""
    workers: int = 0
    """Processes that read and decode images outside memory; 0: threads of this one. The order is the same."""
    sync_batch_norm: bool = False
    """Take batch norm's statistics over all devices (as jit always does); pmap takes them on each device otherwise."""
    skip_nonfinite: int = 0
    """Leave out up to so many steps whose loss or gradient is not finite, before the run stops."""
    tensorboard: bool = False
    """Also write what metrics.jsonl holds as TensorBoard's events (needs the extra "tensorboard")."""
    profile: str | None = None
    """A:B writes a profiler trace of steps A to B, which TensorBoard's profile plugin and Perfetto show."""
    coordinator: str | None = None
    """HOST:PORT of process 0 of a run of several processes; TPU pods and SLURM need no such flags."""
    process_id: int | None = None
    """Number of this process, from 0."""
    num_processes: int | None = None
    """Number of processes; 1: do not look for others."""
    coordinator_timeout: float = 30.0
    """Seconds to wait for the other processes."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        checks: list[tuple[str, bool, str]] = [
            ("epochs", 0 < self.epochs < float("inf"), "above 0 and finite"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < float("inf"), "above 0 and finite"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "at least 0 and finite"),
            ("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"at least 0 and below epochs ({self.epochs})"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "at least 0 and below 1"),
            ("image_size", self.image_size is None or self.image_size >= 1, "at least 1"),
            ("crop_padding", self.crop_padding >= 0, "at least 0"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            ("log_steps", self.log_steps >= 1, "at least 1"),
            ("checkpoint_steps", self.checkpoint_steps >= 0, "at least 0"),
            ("memory_budget_mib", self.memory_budget_mib >= 0, "at least 0"),
            ("workers", self.workers >= 0, "at least 0"),
            ("skip_nonfinite", self.skip_nonfinite >= 0, "at least 0"),
            ("coordinator_timeout", 0 < self.coordinator_timeout < float("inf"), "above 0 and finite"),
        ]
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)}")
        parse_steps(self.profile)
        try:
            model_info(self.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""
        return self.workdir or Path("runs") / f"{self.model}-{self.dataset.replace('/', '-').replace(':', '-')}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }


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


_CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "epochs": 160,
    "batch_size": 128,
    "learning_rate": 0.1,
    "optimizer": "sgd",
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "crop_padding": 4,
    "mirror": True,
}

RECIPES: dict[str, TrainConfig] = {
    config.recipe: config
    for config in (
        TrainConfig(),
        TrainConfig(recipe="mnist-lenet5", dataset="mnist", epochs=10, batch_size=128),
        # He et al. 2015, arXiv:1512.03385, section 4.2, on all 50,000 training images: 64,000 steps there.
        TrainConfig(recipe="cifar10-resnet20", model="resnet20", **_CIFAR),
        # Goyal et al. 2017, arXiv:1706.02677, sections 2 and 5.1.
        TrainConfig(
            recipe="imagenet-resnet50",
            model="resnet50",
            dataset="imagenet2012",
            epochs=90,
            batch_size=256,
            learning_rate=0.1,
            optimizer="sgd",
            weight_decay=1e-4,
            schedule="cosine",
            warmup_epochs=5,
            image_size=224,
            crop_padding=0,
            mirror=True,
            dtype="bfloat16",
        ),
    )
}


def parse_config(arguments: Sequence[str] | None = None, description: str | None = None) -> TrainConfig:
    """Return the config of a command line: the recipe's defaults, overridden flag by flag.

    Args:
      arguments: without the program's name; None for those of this process.
      description: shown by ``--help``.
    Raises:
      ConfigError: an unknown recipe or an impossible value.
      SystemExit: an unknown flag or a value of another type (explained on stderr, exit code 2), or ``--help``.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    recipe = _recipe(arguments)
    return tyro.cli(TrainConfig, args=arguments, default=recipe, description=description)


def _recipe(arguments: Sequence[str]) -> TrainConfig:
    """Return the recipe that the arguments name."""
    name = RECIPES["digits-lenet5"].recipe
    for index, argument in enumerate(arguments):
        if argument == "--recipe" and index + 1 < len(arguments):
            name = arguments[index + 1]
        elif argument.startswith("--recipe="):
            name = argument.partition("=")[2]
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(RECIPES)}"
        raise ConfigError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]
