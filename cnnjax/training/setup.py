"""What a run is made of: network, data, optimizer, devices and compiled steps, built from its config."""

from __future__ import annotations

import abc
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, Self, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import DataPipeline, Preprocess, load_dataset
from cnnjax.data.augment import parse_all
from cnnjax.data.resident import ResidentPipeline, fits_the_device
from cnnjax.data.source import Task
from cnnjax.data.transforms import ResizeAndCentreCrop, resizer
from cnnjax.models import create_model, model_info
from cnnjax.state import TrainState
from cnnjax.training.config import ConfigError, RunConfig, TrainConfig
from cnnjax.training.dispatch import Dispatcher
from cnnjax.training.losses import LossFunction, LossName
from cnnjax.training.metrics import Classification, Metrics, Regression, means, zero_sums
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.steps import Preprocess as StepPreprocess
from cnnjax.training.steps import eval_step, train_step

# Szegedy et al. 2014, arXiv:1409.4842, section 5; 0.4 is what torchvision's reference gives Inception v3's head.
AUX_WEIGHT, AUX_WEIGHTS = 0.3, {"inception_v3": 0.4}


class Pipeline(Protocol):
    """Where a run's batches come from, as `cnnjax.data.DataPipeline` is one."""

    def train_batches(self, batch_size: int, num_batches: int, seed: int, shard: tuple[int, int] = ...) -> Any:
        """Return an iterator with ``get_state`` and ``set_state``.

        A run of several processes also gives ``shard``, as `DataPipeline` takes it.
        """

    def test_batches(self, batch_size: int, shard: tuple[int, int] = ...) -> Iterator[Mapping[str, Any]]:
        """Yield every test example once, in padded batches with a ``mask``."""


@dataclasses.dataclass(frozen=True)
class RunSetup(abc.ABC):
    """What a config amounts to: the network, the data, the optimizer, the devices and the compiled steps.

    Attributes:
      config: what the run was asked to be.
      image_shape: height, width and channels of what the network gets.
      num_examples: training examples an epoch.
      preprocess: of the steps.
      metrics: what is measured besides the loss.
      measure: the test metric by which the best checkpoint is kept, such as "accuracy"; of "loss", less is better.
      schedule: learning rate by step.
      num_steps: length of the run.
      train: (state, sums, batch) -> (state, sums), compiled on the first call; donates both.
      evaluate: (state, batch) -> sums.
      train_stacked: (state, sums, host batches) -> (state, sums), which the loop calls instead of ``train`` where one
        call of the device takes several steps, or the training examples are there.
    """

    config: RunConfig
    devices: Devices
    model: nn.Module
    pipeline: Pipeline
    image_shape: tuple[int, int, int]
    num_examples: int
    preprocess: StepPreprocess
    metrics: Metrics
    measure: str
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    num_steps: int
    train: Callable[[Any, Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    train_stacked: Dispatcher | None = None

    @classmethod
    def build(
        cls,
        config: RunConfig,
        *,
        devices: Devices,
        pipeline: Pipeline,
        num_examples: int,
        preprocess: StepPreprocess,
        loss: LossName | LossFunction,
        metrics: Metrics,
        train_options: Mapping[str, Any] | None = None,
        steps_per_dispatch: int = 1,
        **fields: Any,
    ) -> Self:
        """Return the setup of a run, with what follows from its config: schedule, optimizer and compiled steps.

        Args:
          config, devices, num_examples: see the class.
          pipeline: the data; examples of a `ResidentPipeline` live on the devices.
          preprocess, loss, metrics: of `train_step` and `eval_step`.
          train_options: what else `train_step` takes.
          steps_per_dispatch: steps in one call of the device.
          **fields: the other attributes.
        Raises:
          ConfigError: the schedule does not fit a run of this length.
        """
        num_steps = math.ceil(config.epochs * num_examples / config.batch_size)
        schedule = make_config_schedule(config, num_steps, num_examples / config.batch_size)
        options: dict[str, Any] = {"preprocess": preprocess, "loss": loss, "metrics": metrics}
        step = skip_nonfinite(partial(train_step, **options, **(train_options or {})), config.skip_nonfinite)
        arrays = pipeline.arrays if isinstance(pipeline, ResidentPipeline) else None
        stacked = arrays is not None or steps_per_dispatch > 1
        return cls(
            config=config,
            devices=devices,
            pipeline=pipeline,
            num_examples=num_examples,
            preprocess=preprocess,
            metrics=metrics,
            schedule=schedule,
            tx=make_optimizer(config.optimizer, schedule, **config.optimizer_options()),
            num_steps=num_steps,
            train=devices.compile_train(step),
            train_stacked=Dispatcher(devices, step, steps_per_dispatch, arrays) if stacked else None,
            evaluate=devices.compile_eval(partial(eval_step, **options)),
            **fields,
        )

    @property
    def test_batch_size(self) -> int:
        """Examples of a test batch, before it is filled up for the devices."""
        return self.config.batch_size

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        return self.new_state()

    def new_state(self, **options: Any) -> TrainState:
        """Return a state of step 0; ``options`` are those of `TrainState.create`."""
        key, images = jax.random.key(self.config.seed), jnp.zeros((1, *self.image_shape))
        state = TrainState.create(self.model, self.tx, key, images, **options)
        return state.replace(nonfinite=jnp.zeros((), jnp.int32))

    def test(self, state: Any) -> dict[str, Any]:
        """Return the means over every test example, once each; ``state`` is replicated.

        Where the state has moving averages, they are of these; ``raw_loss``, ``raw_accuracy`` of the parameters.
        """
        batch_size = self.devices.pad_batch_size(self.test_batch_size)
        found = []
        for variables in (state,) if state.ema is None else (state, state.replace(ema=None)):
            batches = self.pipeline.test_batches(batch_size, self.devices.batch_shard)
            found.append(means(sum_over(self.devices, self.evaluate, variables, batches, self.metrics), self.metrics))
        return found[0] | {f"raw_{name}": value for raw in found[1:] for name, value in raw.items()}

    @abc.abstractmethod
    def resolved(self) -> dict[str, Any]:
        """Return what the config left open, as JSON holds it."""


def choose_devices(config: RunConfig) -> Devices:
    """Return the devices of a run; raises ConfigError if they cannot share its batches."""
    try:
        devices = Devices.choose(config.parallel)
        devices.check_batch_size(config.batch_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return devices


def check_images(config: RunConfig, model: nn.Module, image_shape: tuple[int, int, int], hint: str = "") -> Any:
    """Return shapes and types of the network's variables; raises ConfigError if it does not take such images."""
    try:
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    except ValueError as error:
        raise ConfigError(f"{config.model} on {config.dataset}: {error}{hint}") from error


@dataclasses.dataclass(frozen=True)
class ClassifierSetup(RunSetup):
    """What a `TrainConfig` amounts to, for a classifier."""

    config: TrainConfig
    pipeline: DataPipeline
    preprocess: Preprocess

    @classmethod
    def create(cls, config: TrainConfig) -> ClassifierSetup:
        """Build everything that ``config`` names.

        Raises:
          ConfigError: the parts do not fit each other, for example images too small for the network.
          DataError: see `cnnjax.data.load_dataset`.
        """
        devices = choose_devices(config)
        if config.batch_size % (parts := config.accumulate * devices.count):
            raise ConfigError(
                f"batch_size must be divisible by {parts}, accumulate times the {devices.count} devices, got "
                f"{config.batch_size}; take {max(config.batch_size // parts, 1) * parts}"
            )
        info = model_info(config.model)
        if info.task != "classification":
            raise ConfigError(f"{config.model} is a network for {info.task}; take one whose task is classification")
        dataset = load_dataset(
            config.dataset,
            config.data_dir,
            train_split=config.train_split,
            test_split=config.test_split,
            on_bad_image=config.on_bad_image,
            tasks=get_args(Task),
        )
        _check_task(config, dataset.task)
        image_size = config.image_size or _image_size(dataset.image_shape[:2], info.min_size, info.input_size)
        fields = config.network_fields()
        if config.sync_batch_norm and devices.axis_name is not None:
            fields["axis_name"] = devices.axis_name
            if "axis_name" not in {field.name for field in dataclasses.fields(type(create_model(config.model)))}:
                raise ConfigError(f"{config.model} has no batch norm to synchronise; leave out --sync-batch-norm")
        fields |= {"num_classes": dataset.num_classes, "dtype": jnp.dtype(config.dtype)}
        try:
            model = create_model(config.model, **fields)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model_fields: {error}") from error
        model = for_platform(model, jax.default_backend())
        channels = dataset.image_shape[2]
        image_shape = (image_size, image_size, channels)
        variables = check_images(config, model, image_shape, "; see --image-size")
        if not 1 <= config.batch_size <= len(dataset.train):
            raise ConfigError(
                f"batch_size must be at most {len(dataset.train)}, the number of training images of {config.dataset}, "
                f"got {config.batch_size}"
            )
        pipeline = DataPipeline.create(
            dataset,
            image_size,
            config.memory_budget_mib << 20,
            resize_size=info.resize_size and round(image_size * info.resize_size / info.input_size[0]),
            interpolation=info.interpolation,
            workers=config.workers,
        )
        statistics = None if config.normalization == "model" else pipeline.statistics(config.normalization == "data")
        if statistics is None:
            if len(info.mean) != channels:
                raise ConfigError(
                    f"{config.dataset} has images of {channels} channels, {config.model} was published for "
                    f"{len(info.mean)}: measure their mean by --normalization data"
                )
            statistics = info.mean, info.std
        preprocess = Preprocess(*statistics, parse_all(config.augment, num_classes=dataset.num_classes))
        if config.measure == "top5_accuracy" and dataset.num_classes <= 5:
            raise ConfigError(f"measure top5_accuracy needs more than 5 classes, {config.dataset} has fewer")
        metrics: Metrics = Classification(dataset.num_classes, config.per_class)
        if dataset.task == "regression":
            metrics = Regression()
        return cls.build(
            config,
            devices=devices,
            model=model,
            pipeline=_place(pipeline, config.data_on_device, devices),
            image_shape=image_shape,
            num_examples=len(pipeline.train),
            preprocess=preprocess,
            loss=config.loss,
            metrics=metrics,
            measure=config.measure,
            train_options={
                "label_smoothing": config.label_smoothing,
                "aux_weight": aux_weight(config, variables["params"]),
                "accumulate": config.accumulate,
                "ema_decay": config.ema_decay,
            },
            steps_per_dispatch=config.steps_per_dispatch,
        )

    @property
    def test_batch_size(self) -> int:
        """Images of a test batch, before it is filled up for the devices."""
        return min(max(self.config.batch_size, 256), len(self.pipeline.test))

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        return self.new_state(ema=self.config.ema_decay > 0, init=self.config.init)

    def resolved(self) -> dict[str, Any]:
        """Return what the config left to the data and the network."""
        dataset, transform = self.pipeline.dataset, self.pipeline.test_transform
        return {
            "dataset_version": dataset.version,
            "resizer": resizer(),
            "task": dataset.task,
            "num_classes": dataset.num_classes,
            "fields": self.config.network_fields(),
            "label_names": list(dataset.label_names),
            "skipped_images": [list(image) for image in dataset.skipped],
            "train_images": len(self.pipeline.train),
            "test_images": len(self.pipeline.test),
            "image_size": self.pipeline.image_size,
            "channels": dataset.image_shape[2],
            "resize_size": transform.resize_size if isinstance(transform, ResizeAndCentreCrop) else None,
            "interpolation": getattr(transform, "interpolation", "bilinear"),
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "steps": self.num_steps,
        }


LOSSES_OF: Mapping[Task, tuple[LossName, ...]] = {
    "classification": ("cross_entropy", "binary_cross_entropy"),
    "multilabel": ("binary_cross_entropy",),
    "regression": ("mse", "mae", "huber"),
}


def _check_task(config: TrainConfig, task: Task) -> None:
    """Refuse a loss or a measure that the data set has no labels for."""
    if config.loss not in LOSSES_OF[task]:
        allowed = ", ".join(LOSSES_OF[task])
        raise ConfigError(f"loss must be one of {allowed} for {config.dataset}, a set for {task}, got {config.loss!r}")
    if task == "regression" and config.measure != "loss":
        raise ConfigError(f"measure must be loss for {config.dataset}, a set for regression, got {config.measure!r}")
    if task != "classification" and config.per_class:
        raise ConfigError(f"per_class needs one class an image, {config.dataset} is a set for {task}")


def _place(pipeline: DataPipeline, where: str, devices: Devices) -> DataPipeline:
    """Return ``pipeline`` with its training examples where the config wants them."""
    if where == "no" or (where == "auto" and jax.default_backend() == "cpu"):
        return pipeline
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit", 0) // 4 if where == "auto" else sys.maxsize
    if fits_the_device(pipeline, limit):
        return ResidentPipeline.of(pipeline)
    if where == "yes":
        raise ConfigError("data_on_device yes needs images of one size within --memory-budget-mib; take auto or no")
    return pipeline


def make_config_schedule(config: RunConfig, num_steps: int, steps_an_epoch: float) -> optax.Schedule:
    """Return the learning rate that a config asks for in a run of this length; raises ConfigError if it cannot be."""
    options = config.schedule_options(steps_an_epoch)
    try:
        return make_schedule(config.schedule, config.peak_learning_rate, num_steps, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def aux_weight(config: TrainConfig, params: Mapping[str, Any]) -> float:
    """Return the weight of auxiliary heads' losses: 0 without such heads."""
    heads = any(re.fullmatch(r"aux\d+", name) for name in params)
    if config.aux_weight and not heads:
        raise ConfigError(
            f"aux_weight is {config.aux_weight}, but {config.model} has no auxiliary heads; leave it out"
            " or add heads (--model-fields aux_classifiers=true)"
        )
    if config.aux_weight is not None:
        return config.aux_weight
    return AUX_WEIGHTS.get(config.model, AUX_WEIGHT) if heads else 0.0


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
