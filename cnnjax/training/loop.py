"""A training run from config to result: resumable at any step, with the same numbers as if it had never stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from cnnjax.data import DataPipeline, Preprocess, load_dataset
from cnnjax.models import create_model, model_info
from cnnjax.training.checkpoint import Checkpoints
from cnnjax.training.config import ConfigError, RunConfig, TrainConfig
from cnnjax.training.metrics import means, zero_sums
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.progress import RunProgress, print_result
from cnnjax.training.rundir import RunDirectory
from cnnjax.training.state import TrainState
from cnnjax.training.steps import eval_step, train_step
from cnnjax.visualize import plot_curves


class TrainingError(RuntimeError):
    """A run that cannot go on, and what to do about it."""


class Interrupted(Exception):
    """A run that a signal has stopped, after its checkpoint was saved.

    Attributes:
      signal: its number; a process stopped by it exits with 128 + this number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


class Pipeline(Protocol):
    """Where a run's batches come from, as `cnnjax.data.DataPipeline` is one."""

    def train_batches(self, batch_size: int, num_batches: int, seed: int) -> Any:
        """Return an iterator with ``get_state`` and ``set_state``."""

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
    def measure(self) -> str:
        """The test metric by which the best checkpoint is kept: "accuracy", or "loss", of which less is better."""

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""

    def test(self, state: Any) -> dict[str, float]:
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
        dataset = load_dataset(config.dataset, config.data_dir)
        image_size = config.image_size or _image_size(dataset.image_shape[:2], info.min_size, info.input_size)
        model = create_model(config.model, num_classes=dataset.num_classes, dtype=jnp.dtype(config.dtype))
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
        pipeline = DataPipeline.create(dataset, image_size, config.memory_budget_mib << 20)
        statistics = pipeline.statistics()
        if statistics is None:
            if len(info.mean) != channels:
                raise ConfigError(
                    f"{config.dataset} has images of {channels} channels and is too large to measure their mean; "
                    f"{config.model} was published for {len(info.mean)}"
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
        step = partial(
            train_step, preprocess=preprocess, label_smoothing=config.label_smoothing, ema_decay=config.ema_decay
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
            train=devices.compile_train(step),
            evaluate=devices.compile_eval(partial(eval_step, preprocess=preprocess)),
        )

    @property
    def num_examples(self) -> int:
        """Number of training images."""
        return len(self.pipeline.train)

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        shape = (1, self.pipeline.image_size, self.pipeline.image_size, self.pipeline.dataset.image_shape[2])
        key = jax.random.key(self.config.seed)
        return TrainState.create(self.model, self.tx, key, jnp.zeros(shape), ema=self.config.ema_decay > 0)

    def test(self, state: Any) -> dict[str, float]:
        """Return mean loss and accuracy over every test example, once each; ``state`` is replicated."""
        batch_size = self.devices.pad_batch_size(min(max(self.config.batch_size, 256), len(self.pipeline.test)))
        return means(sum_over(self.devices, self.evaluate, state, self.pipeline.test_batches(batch_size)))

    def resolved(self) -> dict[str, Any]:
        """Return what the config left to the data and the network."""
        dataset = self.pipeline.dataset
        return {
            "dataset_version": dataset.version,
            "label_names": list(dataset.label_names),
            "train_images": len(self.pipeline.train),
            "test_images": len(self.pipeline.test),
            "image_size": self.pipeline.image_size,
            "channels": dataset.image_shape[2],
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "steps": self.num_steps,
        }


def sum_over(
    devices: Devices, evaluate: Callable[[Any, Any], Any], state: Any, batches: Iterator[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the sums (see `cnnjax.training.metrics`) that ``evaluate`` gives over all batches."""
    total: dict[str, float] = {"loss_sum": 0.0, "correct": 0, "count": 0}
    # The device works on while the host reads the next batch; results are fetched at the end.
    sums = [evaluate(state, devices.shard(batch)) for batch in batches]
    for batch_sums in sums:
        batch_sums = devices.unreplicate(batch_sums)
        total = {key: value + batch_sums[key].item() for key, value in total.items()}
    return total


def _image_size(native: tuple[int | None, int | None], min_size: int, published: tuple[int, int]) -> int:
    """Return the data set's own size if it is square and the network takes it, else what the network was made for."""
    height, width = native
    if height is not None and height == width and height >= min_size:
        return height
    return published[0]


def fit(
    config: RunConfig, console: Console | None = None, create: Callable[[Any], RunSetup] = Setup.create
) -> dict[str, Any]:
    """Train a network, or go on with a run that was stopped, and return its result.

    Args:
      config: the run; its files are in ``config.run_directory``.
      console: where progress is shown; None for standard output.
      create: builds what the config names; by default a classifier, from a `TrainConfig`.
    Returns:
      What is in ``result.json``: ``steps``, ``epochs``, ``train_loss``, ``train_accuracy``, ``test_loss``,
      ``test_accuracy``, ``best_test_accuracy`` and its ``best_step``, ``images_per_second`` (of training, without
      compilation and evaluation), ``seconds`` (of the whole run), and what was trained where.
    Raises:
      ConfigError, DataError: the run cannot be built.
      CheckpointError: a checkpoint cannot be written, or none can be read.
      TrainingError: the loss is not finite.
      Interrupted: SIGINT or SIGTERM came; a checkpoint of the last step was saved before.
    """
    started = time.perf_counter()
    console = console or Console()
    directory = RunDirectory(config.run_directory, config)
    if (result := directory.result()) is not None:
        console.print("The run is complete; nothing is left to do. Give another --workdir to train again.")
        print_result(console, result, directory.path)
        return result
    setup = create(config)
    directory.create(setup.resolved())
    with Checkpoints(directory.checkpoint_directory) as checkpoints:
        run = TrainingLoop(setup, directory, checkpoints, console, started)
        run.restore()
        with _signals() as stop:
            run.train(stop)
        return run.finish()


class TrainingLoop:
    """The changing part of a run: state, position, and what was measured.

    Attributes:
      step: steps taken.
      train_seconds, train_images: of training proper, without compilation, evaluation and checkpoints.
    """

    def __init__(
        self, setup: RunSetup, directory: RunDirectory, checkpoints: Checkpoints, console: Console, started: float
    ) -> None:
        self.setup = setup
        self.directory = directory
        self.checkpoints = checkpoints
        self.console = console
        self.started = started
        config = setup.config
        self.batches = setup.pipeline.train_batches(config.batch_size, setup.num_steps, config.seed)
        self.state: Any = setup.initial_state()
        self.num_params = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.sums: Any = zero_sums()
        self.step = 0
        self.epoch = 1
        self.best_step: int | None = None
        self.best: float | None = None
        self.latest: dict[str, Any] = {}
        # Of earlier parts of the run.
        self.seconds_before = 0.0
        self.train_seconds = 0.0
        self.train_images = 0

    def restore(self) -> None:
        """Go to the newest good checkpoint, if there is one, and put the state on the devices."""
        if (found := self.checkpoints.restore_newest(self.state)) is not None:
            self.step, self.state, run, damaged = found
            for problem in damaged:
                self.console.print(f"[yellow]{problem}; it was moved to 'corrupt', an earlier one is used[/yellow]")
            for notice in self.checkpoints.notices:
                self.console.print(f"[yellow]{notice}[/yellow]")
            self.batches.set_state(run["data"])
            self.sums = {key: jnp.asarray(run["sums"][key], value.dtype) for key, value in self.sums.items()}
            self.epoch = run["epoch"]
            self.best_step, self.best = run["best_step"], run["best"]
            self.latest = run["latest"]
            self.seconds_before = run["seconds"]
            self.train_seconds, self.train_images = run["train_seconds"], run["train_images"]
            self.console.print(f"Going on from step {self.step} of {self.setup.num_steps}")
        self.directory.forget_after(self.step)
        self.state = self.setup.devices.replicate(self.state)
        self.sums = self.setup.devices.replicate(self.sums)

    def train(self, stop: Stop, until: int | None = None) -> None:
        """Take all steps that are left, or those up to step ``until``."""
        setup, config = self.setup, self.setup.config
        last = setup.num_steps if until is None else min(until, setup.num_steps)
        with RunProgress(self.console, setup.num_steps, self.step, config.batch_size, self.epoch_text()) as progress:
            clock = _Clock(self)
            while self.step < last:
                batch = setup.devices.shard(next(self.batches))
                self.state, self.sums = setup.train(self.state, self.sums, batch)
                self.step += 1
                clock.count(config.batch_size)
                progress.advance(self.step)
                if self.step % config.log_steps == 0:
                    self.log(progress)
                ended = self.step == self.epoch_end()
                if ended:
                    clock.pause()
                    self.end_epoch(progress)
                    clock.resume()
                elif (config.checkpoint_steps and self.step % config.checkpoint_steps == 0) or stop.number:
                    clock.pause()
                    self.save()
                    clock.resume()
                if stop.number and self.step < setup.num_steps:
                    self.checkpoints.wait()
                    raise Interrupted(stop.number)
            clock.pause()

    def epoch_end(self) -> int:
        """Return the step at which this epoch ends: every example was seen that often, or the run is over."""
        steps = math.ceil(self.epoch * self.setup.num_examples / self.setup.config.batch_size)
        return min(steps, self.setup.num_steps)

    def current(self) -> dict[str, float]:
        """Return the means over the epoch so far; waits for the device."""
        sums = jax.device_get(self.setup.devices.unreplicate(self.sums))
        values = means(sums, classes=self.setup.measure == "accuracy")
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} at step {self.step} (learning rate "
                f"{float(self.setup.schedule(self.step - 1)):.3g}); lower --learning-rate or lengthen --warmup-epochs. "
                "Checkpoints of earlier steps are kept"
            )
        return values

    def log(self, progress: RunProgress) -> None:
        """Write a training line."""
        values = self.current()
        rate = float(self.setup.schedule(self.step - 1))
        self.directory.append(
            {"kind": "train", "step": self.step, "epoch": self.epoch, **values, "learning_rate": rate}
        )
        progress.report(self.step, self.epoch_text(), values["loss"])

    def end_epoch(self, progress: RunProgress) -> None:
        """Evaluate, write the epoch's line and the curves, and save."""
        train = self.current()
        progress.report(self.step, self.epoch_text(), train["loss"])
        test = self.setup.test(self.state)
        self.latest = {
            **{f"train_{key}": value for key, value in train.items()},
            **{f"test_{key}": value for key, value in test.items()},
        }
        measure = self.setup.measure
        value = test[measure]
        if self.best is None or (value < self.best if measure == "loss" else value > self.best):
            self.best_step, self.best = self.step, value
        self.directory.append(
            {"kind": "epoch", "step": self.step, "epoch": self.epoch, **self.latest, "seconds": self.seconds()}
        )
        self.epoch += 1
        self.sums = self.setup.devices.replicate(zero_sums())
        self.save()

    def save(self) -> None:
        """Start writing a checkpoint of this step."""
        self.checkpoints.save(
            self.step,
            self.setup.devices.unreplicate(self.state),
            {
                "data": self.batches.get_state(),
                "sums": {key: value.item() for key, value in self.setup.devices.unreplicate(self.sums).items()},
                "epoch": self.epoch,
                "best_step": self.best_step,
                "best": self.best,
                "latest": self.latest,
                "seconds": self.seconds(),
                "train_seconds": self.train_seconds,
                "train_images": self.train_images,
                "config": self.setup.config.to_json(),
            },
            best_step=self.best_step,
        )

    def finish(self) -> dict[str, Any]:
        """Write the curves and the result, once every checkpoint is on the disk."""
        self.checkpoints.wait()
        config = self.setup.config
        plot_curves(self.directory.records(), self.directory.curves_file, f"{config.model} on {config.dataset}")
        result = {
            "model": config.model,
            "dataset": config.dataset,
            "num_params": self.num_params,
            "steps": self.step,
            "epochs": self.step * config.batch_size / self.setup.num_examples,
            **self.latest,
            f"best_test_{self.setup.measure}": self.best,
            "best_step": self.best_step,
            "images_per_second": self.train_images / max(self.train_seconds, 1e-9),
            "seconds": self.seconds(),
            "devices": f"{self.setup.devices.count} {jax.devices()[0].device_kind} ({self.setup.devices.mode})",
        }
        self.directory.write_result(result)
        print_result(self.console, result, self.directory.path)
        return result

    def seconds(self) -> float:
        """Return the wall time of the run so far, all parts together."""
        return self.seconds_before + time.perf_counter() - self.started

    def epoch_text(self) -> str:
        """Return the number of the epoch among all."""
        return f"{self.epoch}/{math.ceil(self.setup.config.epochs)}"


class _Clock:
    """Adds up the time of training proper; the first step of a process compiles and does not count."""

    def __init__(self, run: TrainingLoop) -> None:
        self._run = run
        self._since: float | None = None

    def count(self, images: int) -> None:
        """Count the images of a step that was handed to the device."""
        if self._since is None:
            jax.block_until_ready(self._run.sums)
            self._since = time.perf_counter()
        else:
            self._run.train_images += images

    def pause(self) -> None:
        """Stop the clock when the device is done."""
        if self._since is not None:
            jax.block_until_ready(self._run.sums)
            self._run.train_seconds += time.perf_counter() - self._since

    def resume(self) -> None:
        """Start it again."""
        if self._since is not None:
            self._since = time.perf_counter()


@dataclasses.dataclass
class Stop:
    """The signal that asked the run to stop, 0 for none."""

    number: int = 0


@contextlib.contextmanager
def _signals() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask for a stop after the step in progress; the second one acts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread only; whoever runs this elsewhere handles them.
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
