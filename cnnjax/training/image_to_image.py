"""Runs of networks that map images to images: what their configs have in common, and what the loop needs of them.

A script's config is an `ImageToImageConfig` with flags of its own, and `ImageToImageSetup.create` builds the run from
it and from what is particular to the script: network, data, loss and metrics. `cnnjax.training.fit` does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import flax.linen as nn
import jax

from cnnjax.data.augment import Operation, augment, parse_all
from cnnjax.training.config import RunConfig
from cnnjax.training.losses import LossFunction, LossName
from cnnjax.training.metrics import Metrics
from cnnjax.training.optim import OptimizerName
from cnnjax.training.parallel import ParallelMode, for_platform
from cnnjax.training.setup import Pipeline, RunSetup, check_images, choose_devices
from cnnjax.training.steps import Preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToImageConfig(RunConfig):
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
    """jit, pmap: all devices, see README; single: one device; auto: pmap if there are several devices."""
    log_steps: int = 20
    """Steps between two training lines in metrics.jsonl."""
    checkpoint_steps: int = 0
    """Also save a checkpoint every so many steps; 0: only at the end of each epoch."""
    patience: int = 0
    """Stop after so many epochs in which the test measure did not get better; 0: never."""
    skip_nonfinite: int = 0
    """Leave out up to so many steps whose loss or gradient is not finite, before the run stops."""
    tensorboard: bool = False
    """Also write what metrics.jsonl holds as TensorBoard's events (needs the extra "tensorboard")."""
    profile: str | None = None
    """A:B writes a profiler trace of steps A to B, which TensorBoard's profile plugin and Perfetto show."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        self.check_run()


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
class ImageToImageSetup(RunSetup):
    """What the training loop needs of a run of a `ImageToImageConfig`.

    Attributes:
      facts: what the config left open, for ``config.json``.
    """

    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        config: ImageToImageConfig,
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
          image_shape: height, width and channels of what the network gets.
          num_examples: training examples an epoch.
          preprocess, loss, metrics: see `cnnjax.training.train_step`; what ``config`` augments is augmented before.
          measure: the test metric by which the best checkpoint is kept; of "loss", less is better.
          facts: see the class.
        Raises:
          ConfigError: the devices cannot share a batch, the network does not take such images, or warm-up leaves
            nothing of the run.
        """
        devices = choose_devices(config)
        model = for_platform(model, jax.default_backend())
        check_images(config, model, image_shape)
        if config.augment:
            preprocess = Augmented(parse_all(config.augment), preprocess)
        return cls.build(
            config,
            devices=devices,
            model=model,
            pipeline=pipeline,
            image_shape=image_shape,
            num_examples=num_examples,
            preprocess=preprocess,
            loss=loss,
            metrics=metrics,
            measure=measure,
            facts=facts,
        )

    def resolved(self) -> dict[str, Any]:
        """Return what the config left open."""
        return {"image_shape": list(self.image_shape), "steps": self.num_steps, **self.facts}
