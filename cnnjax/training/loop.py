"""A training run from config to result: resumable at any step, with the same numbers as if it had never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from cnnjax.training.checkpoint import Checkpoints
from cnnjax.training.config import RunConfig
from cnnjax.training.interruption import Interrupted, Stop, stop_on_signals
from cnnjax.training.metrics import means, zero_sums
from cnnjax.training.progress import RunProgress, print_result
from cnnjax.training.rundir import RunDirectory
from cnnjax.training.setup import RunSetup, Setup
from cnnjax.visualize import plot_curves


class TrainingError(RuntimeError):
    """A run that cannot go on, and what to do about it."""


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
        with stop_on_signals() as stop:
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
        self.sums: Any = zero_sums(setup.metrics)
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

    def current(self) -> dict[str, Any]:
        """Return the means over the epoch so far; waits for the device."""
        sums = jax.device_get(self.setup.devices.unreplicate(self.sums))
        values = means(sums, self.setup.metrics)
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
        self.sums = self.setup.devices.replicate(zero_sums(self.setup.metrics))
        self.save()

    def save(self) -> None:
        """Start writing a checkpoint of this step."""
        self.checkpoints.save(
            self.step,
            self.setup.devices.unreplicate(self.state),
            {
                "data": self.batches.get_state(),
                "sums": {
                    key: np.asarray(value).tolist() for key, value in self.setup.devices.unreplicate(self.sums).items()
                },
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
