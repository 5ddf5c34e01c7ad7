"""A training run from config to result: resumable at any step, with the same numbers as if it had never stopped."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from rich.console import Console

from cnnjax.buckets import publish
from cnnjax.nn.onednn import is_asked
from cnnjax.places import url_of
from cnnjax.runs.checkpoints import CheckpointError, Checkpoints
from cnnjax.runs.directory import RunDirectory
from cnnjax.runs.lock import locked
from cnnjax.training import processes
from cnnjax.training.best import Best
from cnnjax.training.classifier import ClassifierSetup
from cnnjax.training.compilation import use_compilation_cache
from cnnjax.training.determinism import use_deterministic_programs
from cnnjax.training.dispatch import Dispatcher
from cnnjax.training.flag_texts import steps_of
from cnnjax.training.interruption import Interrupted, Stop, stop_on_signals
from cnnjax.training.journal import Journal
from cnnjax.training.loggers import Logger, check_packages, open_loggers
from cnnjax.training.maps import EpochMaps
from cnnjax.training.metrics import means, zero_sums
from cnnjax.training.nonfinite import KEPT, describe_bad_step, name_first, nonfinite_paths
from cnnjax.training.profiler import profiler
from cnnjax.training.progress import RunProgress, print_result
from cnnjax.training.run_config import LOCAL_FIELDS, RunConfig
from cnnjax.training.setup import RunSetup, device_name, gpu_libraries, jax_settings

ADVICE = "lower --learning-rate or lengthen --warmup-epochs"


class TrainingError(RuntimeError):
    """A run that cannot go on, and what to do about it."""


def fit(
    config: RunConfig,
    console: Console | None = None,
    create: Callable[[Any], RunSetup] = ClassifierSetup.create,
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Train a network, or resume a run that was stopped, and return its result.

    Args:
      config: the run; its files are in ``config.run_directory``.
      console: where progress is shown; None for standard output.
      create: builds what the config names; by default a classifier, from a `TrainConfig`.
      loggers: functions that are called with each record that ``metrics.jsonl`` gets, in the process that writes it,
        see `cnnjax.training.loggers`. A resumed run calls them with the records of its new steps.
    Returns:
      What is in ``result.json``: ``steps``, ``epochs``, ``train_loss``, ``train_accuracy``, ``test_loss``,
      ``test_accuracy``, ``best_test_accuracy`` and its ``best_step``, ``images_per_second`` (of training, without
      compilation and evaluation), ``seconds`` (of the whole run), and what was trained where.
    Raises:
      ConfigError, DataError: the run cannot be built, or ``deterministic`` came after JAX's first array on a GPU.
      WorkdirError: its folder cannot hold it, or another process writes there.
      CheckpointError: the last checkpoint cannot be written, or none can be read.
      TrainingError: the loss or the gradient is not finite.
      ProcessesError: other processes of the run disagree, failed or are gone.
      Interrupted: SIGINT or SIGTERM came; a checkpoint of the last step was saved before.
    """
    started = time.perf_counter()
    if config.compilation_cache is not None:
        use_compilation_cache(config.compilation_cache)
    # Before anything that asks for a device.
    said = use_deterministic_programs() if config.deterministic else None
    first = processes.is_first()
    console = (console or Console()) if first else Console(quiet=True)
    if said is not None:
        console.print(said, markup=False)
    processes.agree({key: value for key, value in config.to_json().items() if key not in LOCAL_FIELDS})
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.noticing_losses())

        def claim() -> RunDirectory | None:
            if not first:
                return None
            check_packages(config)
            path = config.run_directory
            # What is in a bucket is not known before it is fetched, and that is not before it is locked.
            if url_of(path) is None and (directory := RunDirectory(path, config)).result() is not None:
                return directory
            stack.enter_context(locked(path))
            # Another process may have left something there just before.
            return RunDirectory(config.run_directory, config)

        directory = processes.together(claim)
        if (result := processes.from_first(lambda: directory and directory.result())) is not None:
            console.print("The run is complete; nothing is left to do. Give another --workdir to train again.")
            print_result(console, result, config.run_directory)
            return result
        setup = processes.first_then_others(lambda: create(config))
        if setup.devices.processes > 1:
            processes.agree_on_data(processes.together(setup.data_facts))

        def open_files() -> Checkpoints | None:
            if directory is None:
                return None
            machine = {"device": device_name(), "onednn": is_asked()} | gpu_libraries()
            resolved = setup.resolved() | jax_settings() | machine
            for notice in directory.check_resolved(resolved):
                console.print(f"[yellow]{notice}[/yellow]")
            if directory.grows:
                console.print(f"The run is made longer, to {config.epochs:g} epochs")
            directory.create(resolved)
            if skipped := resolved.get("skipped_images"):
                console.print(f"[yellow]{len(skipped)} bad images are left out; config.json lists them[/yellow]")
            for line in [*setup.describe(), setup.describe_steps()]:
                console.print(line, markup=False)
            return stack.enter_context(Checkpoints(directory.checkpoint_directory))

        run = TrainingLoop(setup, directory, processes.together(open_files), console, started)
        # Whatever ends the run, its curves are those of all epochs.
        stack.callback(run.journal.draw)
        run.restore()
        run.journal.loggers = processes.together(
            lambda: open_loggers(config, directory, run.step, loggers, stack) if directory is not None else []
        )
        if run.stopped_early and run.step < setup.num_steps:
            console.print(f"The run has stopped early, by --patience {config.patience}, and is not trained any further")
        with stop_on_signals() as stop:
            run.train(stop)
        return run.finish()


class TrainingLoop:
    """The changing part of a run: state, position, and what was measured.

    Args:
      setup: what the run is made of.
      directory, checkpoints: where it leaves what; None in a process that writes nothing.
      console: where progress is shown.
      started: when, by `time.perf_counter`.

    Attributes:
      step: steps taken.
      train_seconds, train_images: of training proper, without compilation, evaluation and checkpoints.
    """

    def __init__(
        self,
        setup: RunSetup,
        directory: RunDirectory | None,
        checkpoints: Checkpoints | None,
        console: Console,
        started: float,
    ) -> None:
        self.setup = setup
        self.directory = directory
        self.checkpoints = checkpoints
        self.console = console
        self.started = started
        self.batches = self.train_batches()
        self.dispatcher: Dispatcher | None = setup.train_stacked
        self.state: Any = setup.initial_state()
        self.num_params = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.sums: Any = zero_sums(setup.metrics)
        self.step = 0
        self.epoch = 1
        self.best = Best(setup.measure)
        self.latest: dict[str, Any] = {}
        # Seconds of earlier parts of the run, and when this epoch, or this part of it, began.
        self.epoch_began = 0.0
        self.seconds_before = 0.0
        self.train_seconds = 0.0
        self.train_images = 0
        # Steps that were left out because their gradient was not finite, how many may be, and where all was well.
        self.nonfinite = 0
        self.max_nonfinite = setup.config.skip_nonfinite
        self.good = 0, self.batches.get_state()
        self.journal = Journal(
            directory, console, f"{setup.config.model} on {setup.config.dataset}", setup.learning_rates
        )
        self.profile = steps_of(setup.config.profile)
        self.maps = EpochMaps(setup, directory)

    def train_batches(self) -> Any:
        """Return this process's part of the batches of the run, from the first one."""
        setup, config = self.setup, self.setup.config
        part = {"shard": setup.devices.batch_shard} if setup.devices.processes > 1 else {}
        return setup.pipeline.train_batches(config.batch_size, setup.num_steps, config.seed, **part)

    def restore(self) -> None:
        """Go to the newest good checkpoint, if there is one, and put the state on the devices."""

        def read() -> dict[str, Any] | None:
            assert self.checkpoints is not None

            def target(frozen: frozenset[str]) -> Any:
                return self.setup.with_frozen(self.state, frozen)

            if (found := self.checkpoints.restore_newest(target)) is None:
                return None
            step, self.state, run, damaged = found
            for problem in damaged:
                self.console.print(f"[yellow]{problem}; it was moved to 'corrupt', an earlier one is used[/yellow]")
            for notice in self.checkpoints.notices:
                self.console.print(f"[yellow]{notice}[/yellow]")
            return {"step": step, "frozen": sorted(self.state.frozen), **run}

        if (run := processes.from_first(read)) is not None:
            self.state = processes.share_tree(self.setup.with_frozen(self.state, frozenset(run["frozen"])))
            self.step = run["step"]
            self.batches.set_state(run["data"])
            # Runs of older versions had fewer sums, and did not count epochs.
            self.sums = {key: jnp.asarray(run["sums"].get(key, value), value.dtype) for key, value in self.sums.items()}
            self.epoch = run["epoch"]
            # A run that was made longer may have ended in the middle of an epoch, which it goes on with.
            while self.step < self.setup.num_steps and self.step < self.steps_of(self.epoch - 1):
                self.epoch -= 1
            self.best.set(run)
            self.latest = run["latest"]
            self.seconds_before = run["seconds"]
            self.train_seconds, self.train_images = run["train_seconds"], run["train_images"]
            self.nonfinite = 0 if self.state.nonfinite is None else int(self.state.nonfinite)
            self.console.print(f"Going on from step {self.step} of {self.setup.num_steps}")
        self.good = self.step, self.batches.get_state()
        self.epoch_began = self.seconds()
        processes.together(self.clean_records)
        self.state = self.setup.devices.replicate(self.state)
        self.sums = self.setup.devices.replicate(self.sums)

    def clean_records(self) -> None:
        """Drop what was written after the step to go on from."""
        if self.directory is not None:
            self.directory.forget_after(self.step)

    def train(self, stop: Stop, until: int | None = None) -> None:
        """Take all steps that are left, or those up to step ``until``."""
        setup, config = self.setup, self.setup.config
        last = setup.num_steps if until is None else min(until, setup.num_steps)
        votes = processes.Votes()
        progress = RunProgress(self.console, setup.num_steps, self.step, config.batch_size, self.epoch_text())
        with progress, contextlib.ExitStack() as stack:
            trace = stack.enter_context(profiler(self.profile, self.directory))
            before = self.train_seconds, self.train_images
            self.begin_epoch()

            def pause() -> None:
                """Wait for the device, and stop the clock."""
                jax.block_until_ready(self.sums)
                progress.pace.pause(self.step)
                self.train_seconds = before[0] + progress.pace.worked
                self.train_images = before[1] + progress.pace.steps * config.batch_size

            while self.step < last and not self.stopped_early:
                trace(self.step, self.sums)
                batches = [next(self.batches) for _ in range(self.steps_at_once(last))]
                self.state, self.sums = self.take_steps(self.state, self.sums, batches)
                self.step += len(batches)
                progress.advance(self.step, self.peek)
                if self.step % config.log_steps == 0:
                    self.log(progress)
                ended = self.step == self.epoch_end()
                number = votes.cast(stop.number)
                if ended:
                    pause()
                    self.end_epoch(progress)
                    self.begin_epoch()
                    progress.pace.resume()
                elif (config.checkpoint_steps and self.step % config.checkpoint_steps == 0) or number:
                    pause()
                    self.save()
                    progress.pace.resume()
                if number and self.step < setup.num_steps:
                    self.await_checkpoint()
                    raise Interrupted(number)
            pause()

    def begin_epoch(self) -> None:
        """Let thaw what thaws in this epoch."""
        if self.step < self.setup.num_steps:
            self.state = self.setup.begin_epoch(self.state, self.epoch - 1)

    def peek(self) -> dict[str, jax.Array]:
        """Return copies of the epoch's sums of losses and examples so far; does not wait for the device."""
        sums = {name: self.sums[name] for name in ("loss_sum", "count")}
        return jax.tree.map(jnp.copy, self.setup.devices.unreplicate(sums))

    def steps_at_once(self, last: int) -> int:
        """Return how many steps the next call of the device takes: those until something is to be done, or fewer."""
        if self.dispatcher is None:
            return 1
        config, step = self.setup.config, self.step
        ends = [last, self.epoch_end()]
        if self.profile is not None:
            # A trace begins before its first step and ends after its last.
            ends += [edge for edge in (self.profile[0] - 1, self.profile[1]) if edge > step]
        ends += [
            step - step % interval + interval for interval in (config.log_steps, config.checkpoint_steps) if interval
        ]
        return min(self.dispatcher.steps, min(ends) - step)

    def take_steps(self, state: Any, sums: Any, batches: list[Mapping[str, Any]]) -> tuple[Any, Any]:
        """Return state and sums after one step a host batch; both are donated."""
        if self.dispatcher is not None:
            return self.dispatcher(state, sums, batches)
        for batch in batches:
            state, sums = self.setup.train(state, sums, self.setup.devices.shard(batch))
        return state, sums

    @property
    def stopped_early(self) -> bool:
        """Whether the measure has not got better for as many epochs as the run's patience."""
        return 0 < self.setup.config.patience <= self.best.epochs_since

    def epoch_end(self) -> int:
        """Return the step at which this epoch ends: every example was seen that often, or the run is over."""
        return min(self.steps_of(self.epoch), self.setup.num_steps)

    def steps_of(self, epochs: int) -> int:
        """Return how many steps a number of epochs takes."""
        return math.ceil(epochs * self.setup.num_examples / self.setup.config.batch_size)

    def current(self) -> dict[str, Any]:
        """Return the means over the epoch so far; waits for the device."""
        sums = jax.device_get(self.setup.devices.unreplicate(self.sums))
        values = means(sums, self.setup.metrics)
        self.check_finite(values["loss"])
        return values

    def check_finite(self, loss: float = 0.0) -> None:
        """Raise if there was a loss or gradient that is not finite, more often than allowed; waits for the device."""
        counter = self.state.nonfinite
        if counter is not None:
            self.nonfinite = int(self.setup.devices.unreplicate(counter))
            if self.nonfinite > self.max_nonfinite:
                raise TrainingError(self.explain())
        elif not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.step} (learning rate {self.learning_rate(self.step):.3g}); "
                f"{ADVICE}. Checkpoints of earlier steps are kept"
            )
        self.good = self.step, self.batches.get_state()

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 1; the optimizer does not count the steps that were left out."""
        return float(self.setup.schedule(max(step - 1 - self.nonfinite, 0)))

    def explain(self) -> str:
        """Say what was not finite in the step that stopped the state, by taking it again."""
        bad_step = int(self.setup.devices.unreplicate(self.state).step) + 1
        batches = self.train_batches()
        batches.set_state(self.good[1])
        for _ in range(bad_step - self.good[0]):
            batch = next(batches)
        allowed = f"; {self.nonfinite} such steps so far, and --skip-nonfinite allows {self.max_nonfinite}"
        found = describe_bad_step(
            lambda state, sums: self.take_steps(state, sums, [batch]),
            self.setup.devices,
            self.state,
            # The optimizer counts neither this step nor those that were left out before.
            lambda step: float(self.setup.schedule(max(step - self.nonfinite, 0))),
            self.setup.metrics,
            allowed if self.max_nonfinite else "",
        )
        return (
            f"{found}. {ADVICE.capitalize()}, or tolerate a few such steps with --skip-nonfinite. Checkpoints of "
            "earlier steps are kept"
        )

    def log(self, progress: RunProgress) -> None:
        """Write a training line."""
        values = self.current()
        rate = self.learning_rate(self.step)
        record = {"kind": "train", "step": self.step, "epoch": self.epoch, **values, "learning_rate": rate}
        self.journal.write(self.noted(record))
        progress.report(self.step, self.epoch_text(), values["loss"])

    def noted(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a record with the number of steps that were left out, where some may be."""
        return {**record, "nonfinite_steps": self.nonfinite} if self.max_nonfinite else record

    def end_epoch(self, progress: RunProgress) -> None:
        """Evaluate, write the epoch's line and the curves, and save."""
        train = self.current()
        progress.report(self.step, self.epoch_text(), train["loss"])
        test = self.setup.test(self.state)
        self.best.see(test[self.setup.measure], self.step, self.epoch)
        if self.step == self.setup.num_steps or self.stopped_early:
            test |= self.setup.test_views(self.state)
        self.latest = {
            **{f"train_{key}": value for key, value in train.items()},
            **{f"test_{key}": value for key, value in test.items()},
        }
        rate = self.learning_rate(self.step)
        record = {"kind": "epoch", "step": self.step, "epoch": self.epoch, **self.latest, "learning_rate": rate}
        seconds = self.seconds()
        record = self.noted({**record, "seconds": seconds})
        self.journal.end_epoch(record, self.best, self.epoch_text(), seconds - self.epoch_began)
        self.epoch_began = seconds
        self.maps(self.setup.devices.unreplicate(self.state), self.epoch, self.step)
        self.epoch += 1
        self.sums = self.setup.devices.replicate(zero_sums(self.setup.metrics))
        self.save()

    def save(self) -> bool:
        """Start writing a checkpoint of this step; if that or the one before fails, say so and return False."""
        self.check_finite()
        state = self.setup.devices.unreplicate(self.state)
        for name in KEPT:
            values = serialization.to_state_dict(getattr(state, name))
            if values and (bad := nonfinite_paths(values)):
                raise TrainingError(
                    f"after step {self.step}, {name} holds numbers that are not finite: {name_first(bad, len(bad))}; "
                    f"{ADVICE}. Checkpoints of earlier steps are kept"
                )
        if self.checkpoints is None or self.directory is None:
            return True
        run = {
            "data": self.batches.get_state(),
            "sums": {
                key: np.asarray(value).tolist() for key, value in self.setup.devices.unreplicate(self.sums).items()
            },
            "epoch": self.epoch,
            **self.best.to_json(),
            "latest": self.latest,
            "seconds": self.seconds(),
            "train_seconds": self.train_seconds,
            "train_images": self.train_images,
            "config": self.setup.config.to_json(),
        }
        # The second time, if what failed was the checkpoint before this one.
        for _ in range(2):
            try:
                self.directory.flush()
                self.checkpoints.save(self.step, state, run, best_step=self.best.step)
                if url_of(self.directory.path) is not None:
                    # What may be gone at any time, as this machine may be, is sent at once.
                    self.checkpoints.wait()
                    publish(self.directory.path)
            except (CheckpointError, OSError) as error:
                self.console.print(f"[yellow]{error}; will be tried again with the next checkpoint[/yellow]")
            else:
                return True
        return False

    def await_checkpoint(self) -> None:
        """Wait until the checkpoint of this step is on the disk; try again if it could not be written.

        Raises:
          CheckpointError: it could not be written, again.
        """

        def wait() -> None:
            assert self.checkpoints is not None
            with contextlib.suppress(CheckpointError):
                self.checkpoints.wait()
            if self.step not in self.checkpoints.steps:
                self.save()
                self.checkpoints.wait()
            if self.step not in self.checkpoints.steps:
                raise CheckpointError(
                    f"no checkpoint of step {self.step} could be written to {self.checkpoints.directory}; free some "
                    "space on the disk and start the same command again, which goes on from the checkpoint before"
                )

        processes.from_first(wait)

    def finish(self) -> dict[str, Any]:
        """Write the curves and the result, once the last checkpoint is on the disk."""
        self.await_checkpoint()
        return processes.from_first(self.conclude)

    def conclude(self) -> dict[str, Any]:
        """Write the curves and the result."""
        assert self.directory is not None
        config = self.setup.config
        # Also of a part that trained nothing: the one before may have ended too early to draw.
        self.journal.draw(self.step)
        result = {
            "model": config.model,
            "dataset": config.dataset,
            "num_params": self.num_params,
            "steps": self.step,
            "epochs": self.step * config.batch_size / self.setup.num_examples,
            **self.latest,
            f"best_test_{self.setup.measure}": self.best.value,
            "best_step": self.best.step,
            **({"stopped_early": self.stopped_early} if self.setup.config.patience else {}),
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
