"""What a run is made of: network, data, optimizer, devices and compiled steps, built from its config."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import DataPipeline, Preprocess, load_dataset
from cnnjax.models import create_model, model_info
from cnnjax.training.config import ConfigError, RunConfig, TrainConfig
from cnnjax.training.metrics import Classification, Metrics, means, zero_sums
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.state import TrainState
from cnnjax.training.steps import eval_step, train_step


class Pipeline(Protocol):
    """Where a run's batches come from, as `cnnjax.data.DataPipeline` is one."""

    def train_batches(self, batch_size: int, num_batches: int, seed: int) -> Any:
        """Return an iterator with ``get_state`` and ``set_state``.

        A run of several processes also gives ``shard``, as `DataPipeline` takes it.
        """

    def test_batches(self, batch_size: int) -> Iterator[Mapping[str, Any]]:
        """Yield every test example once, in padded batches with a ``mask``."""


class RunSetup(Protocol):
    """What the loop needs to know of a run, as `Setup` is one for classifiers."""

    @property
    def config(self) -> RunConfig:
        """What the run was asked to be."""

    @property
    def devices(self) -> Devices:
        """Where it runs."""

    @property
    def pipeline(self) -> Pipeline:
        """Where its batches come from."""

    @property
    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""

    @property
    def num_steps(self) -> int:
        """Length of the run."""

    @property
    def num_examples(self) -> int:
        """Examples an epoch."""

    @property
    def train(self) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
        """(state, sums, batch) -> (state, sums), compiled."""

    @property
    def metrics(self) -> Metrics:
        """What is measured besides the loss."""

    @property
    def measure(self) -> str:
        """The test metric by which the best checkpoint is kept: "accuracy", or "loss", of which less is better."""

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""

    def test(self, state: Any) -> dict[str, Any]:
        """Return the means over every test example."""

    def resolved(self) -> dict[str, Any]:
        """Return what the config left open."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config amounts to: the network, the data, the optimizer, the devices and the compiled steps.

    Attributes:
      train: (state, sums, batch) -> (state, sums), compiled on the first call; donates both.
      evaluate: (state, batch) -> sums.
    """

    config: TrainConfig
    devices: Devices
    model: nn.Module
    pipeline: DataPipeline
    preprocess: Preprocess
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    num_steps: int
    train: Callable[[Any, Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    metrics: Metrics
    measure = "accuracy"

    @classmethod
    def create(cls, config: TrainConfig) -> Setup:
        """Build everything that ``config`` names.

        Raises:
          ConfigError: the parts do not fit each other, for example images too small for the network.
          DataError: see `cnnjax.data.load_dataset`.
        """
        devices = Devices.choose(config.parallel)
        try:
            devices.check_batch_size(config.batch_size)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        info = model_info(config.model)
        if info.task != "classification":
            raise ConfigError(f"{config.model} is a network for {info.task}; take one whose task is classification")
        dataset = load_dataset(
            config.dataset,
            config.data_dir,
            train_split=config.train_split,
            test_split=config.test_split,
            on_bad_image=config.on_bad_image,
        )
        if dataset.task != "classification":
            raise ConfigError(f"{config.dataset} in {config.data_dir} is for {dataset.task}, not of one class each")
        image_size = config.image_size or _image_size(dataset.image_shape[:2], info.min_size, info.input_size)
        fields: dict[str, Any] = {}
        if config.sync_batch_norm and devices.axis_name is not None:
            fields["axis_name"] = devices.axis_name
            if "axis_name" not in {field.name for field in dataclasses.fields(type(create_model(config.model)))}:
                raise ConfigError(f"{config.model} has no batch norm to synchronise; leave out --sync-batch-norm")
        model = create_model(config.model, num_classes=dataset.num_classes, dtype=jnp.dtype(config.dtype), **fields)
        model = for_platform(model, jax.default_backend())
        channels = dataset.image_shape[2]
        try:
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, image_size, image_size, channels)))
        except ValueError as error:
            raise ConfigError(f"{config.model} on {config.dataset}: {error}; see --image-size") from error
        if not 1 <= config.batch_size <= len(dataset.train):
            raise ConfigError(
                f"batch_size must be at most {len(dataset.train)}, the number of training images of {config.dataset}, "
                f"got {config.batch_size}"
            )
        pipeline = DataPipeline.create(dataset, image_size, config.memory_budget_mib << 20, workers=config.workers)
        statistics = None if config.normalization == "model" else pipeline.statistics(config.normalization == "data")
        if statistics is None:
            if len(info.mean) != channels:
                raise ConfigError(
                    f"{config.dataset} has images of {channels} channels, {config.model} was published for "
                    f"{len(info.mean)}: measure their mean by --normalization data"
                )
            statistics = info.mean, info.std
        preprocess = Preprocess(*statistics, crop_padding=config.crop_padding, mirror=config.mirror)
        num_steps = math.ceil(config.epochs * len(dataset.train) / config.batch_size)
        warmup_steps = round(config.warmup_epochs * len(dataset.train) / config.batch_size)
        try:
            schedule = make_schedule(config.schedule, config.learning_rate, num_steps, warmup_steps=warmup_steps)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        tx = make_optimizer(config.optimizer, schedule, momentum=config.momentum, weight_decay=config.weight_decay)
        metrics = Classification(dataset.num_classes)
        step = partial(
            train_step,
            preprocess=preprocess,
            metrics=metrics,
            label_smoothing=config.label_smoothing,
            ema_decay=config.ema_decay,
        )
        return cls(
            config=config,
            devices=devices,
            model=model,
            pipeline=pipeline,
            preprocess=preprocess,
            schedule=schedule,
            tx=tx,
            num_steps=num_steps,
            train=devices.compile_train(skip_nonfinite(step, config.skip_nonfinite)),
            evaluate=devices.compile_eval(partial(eval_step, preprocess=preprocess, metrics=metrics)),
            metrics=metrics,
        )

    @property
    def num_examples(self) -> int:
        """Number of training images."""
        return len(self.pipeline.train)

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        shape = (1, self.pipeline.image_size, self.pipeline.image_size, self.pipeline.dataset.image_shape[2])
        key = jax.random.key(self.config.seed)
        state = TrainState.create(self.model, self.tx, key, jnp.zeros(shape), ema=self.config.ema_decay > 0)
        return state.replace(nonfinite=jnp.zeros((), jnp.int32))

    def test(self, state: Any) -> dict[str, Any]:
        """Return mean loss and accuracy over every test example, once each; ``state`` is replicated."""
        batch_size = self.devices.pad_batch_size(min(max(self.config.batch_size, 256), len(self.pipeline.test)))
        batches = self.pipeline.test_batches(batch_size, self.devices.batch_shard)
        return means(sum_over(self.devices, self.evaluate, state, batches, self.metrics), self.metrics)

    def resolved(self) -> dict[str, Any]:
        """Return what the config left to the data and the network."""
        dataset = self.pipeline.dataset
        return {
            "dataset_version": dataset.version,
            "label_names": list(dataset.label_names),
            "skipped_images": [list(image) for image in dataset.skipped],
            "train_images": len(self.pipeline.train),
            "test_images": len(self.pipeline.test),
            "image_size": self.pipeline.image_size,
            "channels": dataset.image_shape[2],
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "steps": self.num_steps,
        }


def sum_over(
    devices: Devices,
    evaluate: Callable[[Any, Any], Any],
    state: Any,
    batches: Iterator[Mapping[str, Any]],
    metrics: Metrics,
) -> dict[str, Any]:
    """Return the sums (see `cnnjax.training.metrics`) that ``evaluate`` gives over all batches."""
    # The device works on while the host reads the next batch; results are fetched at the end.
    sums = [evaluate(state, devices.shard(batch)) for batch in batches]
    total = _as_numbers(zero_sums(metrics))
    for batch_sums in sums:
        total = jax.tree.map(np.add, total, _as_numbers(devices.unreplicate(batch_sums)))
    return total


def _as_numbers(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return sums with the host's precision, which those over a large test split need."""
    return {
        key: np.asarray(value, np.float64 if jnp.issubdtype(value.dtype, jnp.floating) else np.int64)
        for key, value in sums.items()
    }


def _image_size(native: tuple[int | None, int | None], min_size: int, published: tuple[int, int]) -> int:
    """Return the data set's own size if it is square and the network takes it, else what the network was made for."""
    height, width = native
    if height is not None and height == width and height >= min_size:
        return height
    return published[0]
