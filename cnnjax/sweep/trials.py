"""Trials: runs of a training script, each in a folder of its own, one after another in each of several processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cnnjax.alive import process_identity
from cnnjax.runs import WorkdirInUseError, locked
from cnnjax.sweep.search import Parameter, with_values
from cnnjax.sweep.study import Place, take_up
from cnnjax.training import ConfigError, Interrupted, TrainConfig, TrainingError, fit, run_command

FINISHED = "COMPLETE", "PRUNED"
# Seconds between two looks at a study in which others are at work.
WAIT = 1.0


def run_trial(trial: Any, config: TrainConfig, search: Sequence[Parameter], folder: Path) -> float:
    """Train what a trial asks for, in its own folder, and return its best measure.

    Args:
      trial: of Optuna.
      config: what all trials share; ``workdir`` is each trial's own.
      search: what the trial chooses.
      folder: of the sweep; the trial goes on in a folder of it that it had before.
    Raises:
      optuna.TrialPruned: values that do not go together, or a loss that is not finite.
    """
    import optuna

    trial.set_user_attr("process", process_identity())
    values = {parameter.name: parameter.suggest(trial) for parameter in search}
    place = trial.user_attrs.get("folder", str(trial.number))
    # A folder that another machine has locked may still be in use; its trial starts again in a new one.
    for name in dict.fromkeys((place, str(trial.number))):
        trial.set_user_attr("folder", name)
        workdir = folder / "trials" / name
        try:
            with locked(workdir), (workdir / "log.txt").open("a") as log:
                run = with_values(dataclasses.replace(config, workdir=workdir), values)
                result = fit(run, Console(file=log, width=120))
        except WorkdirInUseError:
            if name == str(trial.number):
                raise
        except (ConfigError, TrainingError) as error:
            # Values that do not go together, or a loss that is not finite, are a result too: a bad one.
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned(str(error)) from error
        else:
            return float(result[f"best_test_{config.measure}"])
    raise AssertionError


class Surplus(Exception):
    """A trial that was begun while another process began the last one."""


def work(index: int, config: TrainConfig, search: Sequence[Parameter], place: Place, trials: int) -> int:
    """Run trials until there are enough, and return the signal that stopped it, or 0: one of several processes.

    Args:
      index: of this process, so that no two draw the same.
      config, search: see `run_trial`.
      place: of the study.
      trials: how many of the study are to end, those of all processes together.
    """
    import optuna

    study = place.open(config, index)
    states = optuna.trial.TrialState
    finished = [states[name] for name in FINISHED]

    def objective(trial: Any) -> float:
        before = study.get_trials(deepcopy=False, states=[*finished, states.RUNNING])
        if sum(other.number < trial.number for other in before) >= trials:
            raise Surplus
        return run_trial(trial, config, search, place.folder)

    while True:
        take_up(study, place)
        if len(study.get_trials(deepcopy=False, states=finished)) >= trials:
            return 0
        if len(study.get_trials(deepcopy=False, states=[*finished, states.RUNNING])) >= trials:
            if not place.has_heartbeat:
                return 0
            time.sleep(WAIT)
            continue
        try:
            study.optimize(objective, n_trials=1, catch=(Surplus,))
        except Interrupted as stop:
            own = [trial for trial in study.get_trials(deepcopy=False) if _is_own(trial)]
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, own[-1])
            return stop.signal


def _is_own(trial: Any) -> bool:
    return bool(trial.user_attrs.get("process") == process_identity() and trial.params)


def run_processes(
    count: int,
    config: TrainConfig,
    search: Sequence[Parameter],
    place: Place,
    trials: int,
    report: Callable[[], None],
) -> None:
    """Run trials in several processes until there are enough.

    Args:
      count: of processes.
      config, search, place, trials: see `work`.
      report: called twice a second, and when all is done.
    Raises:
      Interrupted: SIGINT or SIGTERM came; trials have saved checkpoints.
      TrainingError: a process failed.
    """
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_work, args=(index, config, search, place, trials)) for index in range(count)]
    stopped: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: stopped.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.5)
            if stopped:
                for worker in workers:
                    if worker.is_alive():
                        worker.terminate()
                for worker in workers:
                    worker.join()
                raise Interrupted(stopped[0])
            report()
        report()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            _raise(worker.exitcode - 128 if worker.exitcode > 128 else 0)
            raise TrainingError(f"a process of the sweep failed with exit code {worker.exitcode}; see above")


def _work(*arguments: Any) -> None:
    """Run `work` as a process of its own, which tells by its exit code how it ended."""
    sys.exit(run_command(lambda: _raise(work(*arguments))))


def _raise(number: int) -> None:
    if number:
        raise Interrupted(number)
