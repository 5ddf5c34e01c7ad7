"""Runs of networks that map images to images: what their configs have in common, and what the loop needs of them.

A script's config is a `TaskConfig` with flags of its own, and `TaskSetup.create` builds the run from it and from what
is particular to the task: network, data, loss and metrics. `cnnjax.training.fit` does the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax.data.augment import Operation, augment, parse_all
from cnnjax.training.config import ConfigError
from cnnjax.training.losses import LossFunction, LossName
from cnnjax.training.metrics import Metrics, means
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.training.optim import OptimizerName, make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, ParallelMode, for_platform
from cnnjax.training.setup import Pipeline, sum_over
from cnnjax.training.state import TrainState
from cnnjax.training.steps import Preprocess, eval_step, train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A run; each field is a flag of the script."""

    model: str
    """Name of a network, see python -m cnnjax.models."""
    dataset: str
    """What is learnt from."""
    data_dir: Path | None = None
    """Folder of the data."""
    workdir: Path | None = None
    """Folder of the run; None: one of its own in runs/."""
    epochs: float = 10
    """Passes over the training images."""
    batch_size: int = 16
    """Images a step, over all devices."""
    learning_rate: float = 1e-3
    """After warm-up."""
    warmup_epochs: float = 0.0
    """Linear rise of the learning rate from 0."""
    optimizer: OptimizerName = "adam"
    """Optimizer, from optax."""
    schedule: Literal["constant", "multistep", "cosine", "polynomial", "onecycle"] = "cosine"
    """Course of the learning rate: cosine and polynomial (a line) fall to 0, multistep divides by 10 at 50 and 75 %."""
    weight_decay: float = 0.0
    """Of weights; biases and normalisation do not decay."""
    augment: tuple[str, ...] = ()
    """Augmentations in their order, a name and, after a colon, its values (mirror rotate:15), see cnnjax.data.augment;
    labels of pixels and target images move with their image."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, outputs and loss are float32 always."""
    seed: int = 0
    """Of everything random."""
    parallel: ParallelMode = "auto"
    """auto: pmap if there are several devices; jit: one device; pmap: all devices of this machine."""
    log_steps: int = 20
    """Steps between two training lines in metrics.jsonl."""
    checkpoint_steps: int = 0
    """Also save a checkpoint every so many steps; 0: only at the end of each epoch."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        self.require(
            [
                ("epochs", 0 < self.epochs < math.inf, "above 0 and finite"),
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
                (
                    "warmup_epochs",
                    0 <= self.warmup_epochs < self.epochs,
                    f"at least 0 and below epochs ({self.epochs})",
                ),
                ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
                ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
                ("log_steps", self.log_steps >= 1, "at least 1"),
                ("checkpoint_steps", self.checkpoint_steps >= 0, "at least 0"),
            ]
        )
        try:
            parse_all(self.augment)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def require(self, checks: Iterable[tuple[str, bool, str]]) -> None:
        """Raise ConfigError for the first of (field, is good, what is expected) that is not good."""
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} must be {expected}, got {getattr(self, name)}")

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        return f"{self.model}-{self.dataset}"

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""
        return self.workdir or Path("runs") / self.default_directory.replace("/", "-").replace(":", "-")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        fields = {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


# Folded into the keys of examples for what comes after augmentations, which fold in their positions.
AFTER = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Augmented:
    """A preprocessing hook after augmentations.

    Attributes:
      operations: applied in training, in their order.
      then: the hook.
    """

    operations: tuple[Operation, ...]
    then: Preprocess

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None) -> dict[str, jax.Array]:
        """Augment (with keys) and preprocess ``batch``."""
        if keys is None:
            return self.then(batch, None)
        after = jax.vmap(lambda key: jax.random.fold_in(key, AFTER))(keys)
        return self.then(augment(batch, keys, self.operations), after)


@dataclasses.dataclass(frozen=True)
class TaskSetup:
    """What the training loop needs of a run: see `cnnjax.training.setup.RunSetup`.

    Attributes:
      image_shape: height, width and channels of what the network gets.
      num_examples: training examples an epoch.
      facts: what the config left open, for ``config.json``.
      measure: the test metric by which the best checkpoint is kept.
    """

    config: TaskConfig
    devices: Devices
    model: nn.Module
    pipeline: Pipeline
    image_shape: tuple[int, int, int]
    num_examples: int
    metrics: Metrics
    measure: str
    facts: Mapping[str, Any]
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    num_steps: int
    train: Callable[[Any, Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    patience = 0

    @classmethod
    def create(
        cls,
        config: TaskConfig,
        *,
        model: nn.Module,
        pipeline: Pipeline,
        image_shape: tuple[int, int, int],
        num_examples: int,
        preprocess: Preprocess,
        loss: LossName | LossFunction,
        metrics: Metrics,
        measure: str = "loss",
        facts: Mapping[str, Any],
    ) -> Self:
        """Build what the loop needs.

        Args:
          config: the run.
          model: the network.
          pipeline: its data.
          image_shape, num_examples, metrics, measure, facts: see the class.
          preprocess, loss: see `cnnjax.training.train_step`; what ``config`` augments is augmented before.
        Raises:
          ConfigError: the devices cannot share a batch, the network does not take such images, or warm-up leaves
            nothing of the run.
        """
        devices = Devices.choose(config.parallel)
        epoch_steps = num_examples / config.batch_size
        num_steps = math.ceil(config.epochs * epoch_steps)
        model = for_platform(model, jax.default_backend())
        try:
            devices.check_batch_size(config.batch_size)
            schedule = make_schedule(
                config.schedule, config.learning_rate, num_steps, warmup_steps=round(config.warmup_epochs * epoch_steps)
            )
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
        except ValueError as error:
            raise ConfigError(f"{config.model}: {error}") from error
        if config.augment:
            preprocess = Augmented(parse_all(config.augment), preprocess)
        options: dict[str, Any] = {"preprocess": preprocess, "loss": loss, "metrics": metrics}
        return cls(
            config=config,
            devices=devices,
            model=model,
            pipeline=pipeline,
            image_shape=image_shape,
            num_examples=num_examples,
            metrics=metrics,
            measure=measure,
            facts=facts,
            schedule=schedule,
            tx=make_optimizer(config.optimizer, schedule, weight_decay=config.weight_decay),
            num_steps=num_steps,
            train=devices.compile_train(skip_nonfinite(partial(train_step, **options), 0)),
            evaluate=devices.compile_eval(partial(eval_step, **options)),
        )

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        images = jnp.zeros((1, *self.image_shape))
        state = TrainState.create(self.model, self.tx, jax.random.key(self.config.seed), images)
        return state.replace(nonfinite=jnp.zeros((), jnp.int32))

    def test(self, state: Any) -> dict[str, Any]:
        """Return the means over every test example, once each; ``state`` is replicated."""
        batch_size = self.devices.pad_batch_size(self.config.batch_size)
        batches = self.pipeline.test_batches(batch_size, self.devices.batch_shard)
        return means(sum_over(self.devices, self.evaluate, state, batches, self.metrics), self.metrics)

    def resolved(self) -> dict[str, Any]:
        """Return what the config left open."""
        return {"image_shape": list(self.image_shape), "steps": self.num_steps, **self.facts}
