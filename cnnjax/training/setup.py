"""What a run is made of: network, data, optimizer, devices and compiled steps, built from its config."""

from __future__ import annotations

import abc
import dataclasses
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, Protocol, Self, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data.resident import ResidentPipeline
from cnnjax.models.views import ViewsName
from cnnjax.runs.directory import CUDNN, package_version
from cnnjax.state import TrainState
from cnnjax.training.dispatch import Dispatcher
from cnnjax.training.flags import ConfigError
from cnnjax.training.losses import LossFunction, LossName
from cnnjax.training.metrics import Metrics, means, zero_sums
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices
from cnnjax.training.run_config import RunConfig
from cnnjax.training.steps import Preprocess as StepPreprocess
from cnnjax.training.steps import eval_step, train_step

# Points of a curve of the learning rate.
RATES = 400


class Pipeline(Protocol):
    """Where a run's batches come from, as `cnnjax.data.DataPipeline` is one."""

    def train_batches(self, batch_size: int, num_batches: int, seed: int, shard: tuple[int, int] = ...) -> Any:
        """Return an iterator with ``get_state`` and ``set_state``.

        A run of several processes also gives ``shard``, as `DataPipeline` takes it.
        """

    def test_batches(self, batch_size: int, shard: tuple[int, int] = ...) -> Iterator[Mapping[str, Any]]:
        """Yield every test example once, in padded batches with a ``mask``."""


class Parts(TypedDict):
    """What is particular to a run, besides its config.

    Attributes:
      model: the network.
      pipeline: its data; examples of a `ResidentPipeline` live on the devices.
      image_shape: height, width and channels of what the network gets.
      num_examples: training examples per epoch.
      preprocess, loss, metrics: of the steps, see `cnnjax.training.train_step`.
      measure: the test metric by which the best checkpoint is kept, such as "accuracy"; of "loss", the default, less is
        better.
    """

    model: nn.Module
    pipeline: Pipeline
    image_shape: tuple[int, int, int]
    num_examples: int
    preprocess: StepPreprocess
    loss: LossName | LossFunction
    metrics: Metrics
    measure: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class RunSetup(abc.ABC):
    """What a config amounts to: the network, the data, the optimizer, the devices and the compiled steps.

    Attributes:
      config: what the run was asked to be.
      model, pipeline, image_shape, num_examples, preprocess, metrics, measure: see `Parts`.
      schedule: learning rate by step.
      num_steps: length of the run.
      train: (state, sums, batch) -> (state, sums), compiled on the first call; donates both.
      evaluate: (state, batch) -> sums.
      evaluate_views: the same with test-time augmentation, at the end of the run; None: without.
      tests_raw: also test the parameters beside their moving averages.
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
    evaluate_views: Callable[[Any, Any], Any] | None = None
    tests_raw: bool = True

    @classmethod
    def build(
        cls,
        config: RunConfig,
        devices: Devices,
        parts: Parts,
        *,
        train_options: Mapping[str, Any] | None = None,
        steps_per_dispatch: int = 1,
        views: ViewsName = "none",
        **fields: Any,
    ) -> Self:
        """Return the setup of a run, with what follows from its config: schedule, optimizer and compiled steps.

        Args:
          config, devices: see the class.
          parts: see `Parts`.
          train_options: what else `train_step` takes.
          steps_per_dispatch: steps in one call of the device.
          views: test-time augmentation at the end of the run, see `cnnjax.models.views`.
          **fields: attributes that a subclass adds.
        Raises:
          ConfigError: the schedule does not fit a run of this length.
        """
        num_examples, pipeline = parts["num_examples"], parts["pipeline"]
        num_steps = steps_of_run(config, num_examples)
        schedule = make_config_schedule(config, num_steps, num_examples / config.batch_size)
        options: dict[str, Any] = {"preprocess": parts["preprocess"], "metrics": parts["metrics"]}
        options["loss"] = parts["loss"]
        step = skip_nonfinite(partial(train_step, **options, **(train_options or {})), config.skip_nonfinite)
        arrays = pipeline.arrays if isinstance(pipeline, ResidentPipeline) else None
        stacked = arrays is not None or steps_per_dispatch > 1
        return cls(
            config=config,
            devices=devices,
            model=parts["model"],
            pipeline=pipeline,
            image_shape=parts["image_shape"],
            num_examples=num_examples,
            preprocess=parts["preprocess"],
            metrics=parts["metrics"],
            measure=parts.get("measure", "loss"),
            schedule=schedule,
            tx=make_optimizer(config.optimizer, schedule, **config.optimizer_options()),
            num_steps=num_steps,
            train=devices.compile_train(step),
            train_stacked=Dispatcher(devices, step, steps_per_dispatch, arrays) if stacked else None,
            evaluate=devices.compile_eval(partial(eval_step, **options)),
            evaluate_views=None
            if views == "none"
            else devices.compile_eval(partial(eval_step, **options, test_time_augmentation=views)),
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

    def with_frozen(self, state: TrainState, frozen: frozenset[str]) -> TrainState:
        """Return ``state``, on one device, as it was at the time when ``frozen`` was its ``frozen``."""
        return state

    def begin_epoch(self, state: Any, epoch: int) -> Any:
        """Return the state to go on with in an epoch, counted from 0; ``state`` is replicated, and the result is."""
        return state

    def describe(self) -> list[str]:
        """Return what a user should know before the run begins, in lines."""
        return []

    def describe_steps(self) -> str:
        """Return what steps the run takes, in one line."""
        size = "x".join(map(str, self.image_shape))
        batch, each = self.config.batch_size, self.num_examples / self.config.batch_size
        stacked = self.train_stacked
        calls = f", up to {stacked.steps} steps in one call" if stacked is not None and stacked.loops else ""
        return (
            f"{self.num_steps:,} steps of {batch:,} images of {size}, {each:,.4g} steps per epoch; "
            f"{self.devices.count} {jax.devices()[0].device_kind} ({self.devices.mode}){calls}"
        )

    def learning_rates(self, steps: int) -> list[tuple[int, float]]:
        """Return (step, learning rate) of the first steps, counted from 1: of all, or of `RATES` evenly spaced ones."""
        numbers = np.unique(np.linspace(1, steps, min(steps, RATES)).round().astype(np.int32))
        rates = np.broadcast_to(jax.vmap(self.schedule)(numbers - 1), numbers.shape)
        return list(zip(numbers.tolist(), rates.tolist(), strict=True))

    def test(self, state: Any) -> dict[str, Any]:
        """Return the means over every test example, once each; ``state`` is replicated.

        Where the state has moving averages, they are of these; ``raw_loss``, ``raw_accuracy`` of the parameters.
        """
        found = self._means(self.evaluate, state)
        if state.ema is not None and self.tests_raw:
            raw = self._means(self.evaluate, state.replace(ema=None))
            found |= {f"raw_{name}": value for name, value in raw.items()}
        return found

    def test_views(self, state: Any) -> dict[str, Any]:
        """Return ``tta_loss`` and so on: the means with test-time augmentation; nothing if the run has none."""
        if self.evaluate_views is None:
            return {}
        return {f"tta_{name}": value for name, value in self._means(self.evaluate_views, state).items()}

    def _means(self, evaluate: Callable[[Any, Any], Any], state: Any) -> dict[str, Any]:
        batch_size = self.devices.pad_batch_size(self.test_batch_size)
        batches = self.pipeline.test_batches(batch_size, self.devices.batch_shard)
        return means(sum_over(self.devices, evaluate, state, batches, self.metrics), self.metrics)

    def data_facts(self) -> dict[str, Any]:
        """Return what has to be equal in all processes of a run, as JSON holds it: of the data each of them reads."""
        return {"training examples": self.num_examples, "image shape": list(self.image_shape)}

    @abc.abstractmethod
    def resolved(self) -> dict[str, Any]:
        """Return what the config left open, as JSON holds it."""


def steps_of_run(config: RunConfig, num_examples: int) -> int:
    """Return the length of a run that learns from so many examples, in steps."""
    return math.ceil(config.epochs * num_examples / config.batch_size)


def jax_settings() -> dict[str, Any]:
    """Return the settings of JAX that decide over what is drawn, by name."""
    names = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
    return {name: getattr(jax.config, name) for name in names}


def device_name() -> str:
    """Return the kind of device that programs run on, which decides over how they round."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    # JAX calls every processor "cpu", and their vectors differ in width. Where Linux names none, take the architecture.
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu, {names[0] if names else platform.machine()}"


def gpu_libraries() -> dict[str, str]:
    """Return the versions of libraries whose algorithms XLA's programs call on GPUs, by name; nothing elsewhere."""
    found = {name: package_version(f"nvidia-{name}") for name in CUDNN} if jax.default_backend() == "gpu" else {}
    return {name: version for name, version in found.items() if version is not None}


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


def make_config_schedule(config: RunConfig, num_steps: int, steps_an_epoch: float) -> optax.Schedule:
    """Return the learning rate that a config asks for in a run of this length; raises ConfigError if it cannot be."""
    options = config.schedule_options(steps_an_epoch)
    try:
        return make_schedule(config.schedule, config.peak_learning_rate, num_steps, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


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
