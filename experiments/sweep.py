"""Search for a recipe's best hyper-parameters.

    python experiments/sweep.py --trials 20 --processes 2 --epochs 5
    python experiments/sweep.py --recipe cifar10-resnet20 --data-dir DIR --trials 50 \\
        --search "learning_rate=0.01:1:log" "batch_size=64|128|256" "augment=none|crop:4 mirror|crop:4 mirror cutout:8"
    python experiments/sweep.py --model mobilenet_v2 --search "model.dropout_rate=0:0.5" "model.width_multiplier=0.5|1"

Each trial is a run of `experiments/train.py` in a folder of its own, ``--workdir``/trials/<number>, and is judged on a
tenth of the training images that is held out, so that the test images stay unseen. What to try comes from Optuna's
tree-structured Parzen estimator (Bergstra et al. 2011, NIPS 24, section 4). The same command again goes on: trials that
were stopped resume from their checkpoints, and ``--trials`` counts all. Needs the extra "sweep". ``sweep.png`` shows
every trial, ``result.json`` names the best. Exit codes as in `experiments/train.py`.

Several machines work on one study if the same command runs on each of them with ``--storage``: a file in a folder that
they share, or a server's database:

    python experiments/sweep.py --trials 50 --storage /shared/study.log --workdir /shared/sweep
    python experiments/sweep.py --trials 50 --storage postgresql://USER:PASSWORD@HOST/DATABASE

A trial whose process was killed is taken up again. With a database, any machine does so once the process has not been
heard of for three times ``--heartbeat`` seconds, and all wait for the last trial. Files have no heartbeat: trials are
taken up by the machine that they were killed on, when the command is given there again. If the ``--workdir`` is shared
as well, a trial goes on from its checkpoint, unless its folder is locked by another machine; then it starts again.

A parameter is NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B|C; NAME is a flag of train.py, or "model." and a field of
the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import re
import signal
import socket
import sys
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax.alive import is_gone, process_identity
from cnnjax.data import load_dataset
from cnnjax.places import local_path
from cnnjax.runs import WorkdirInUseError, locked
from cnnjax.training import RECIPES, ConfigError, Interrupted, TrainConfig, TrainingError, fit, run_command
from cnnjax.training.run_config import FREE_FIELDS
from cnnjax.writing import write_json

FINISHED = "COMPLETE", "PRUNED"
# Seconds between two looks at a study in which others are at work.
WAIT = 1.0


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What may be tried for a flag, or for a field of the network.

    Attributes:
      name: of the flag, or "model." and the field's.
      choices: values, if there are only these.
      low, high: the least and the greatest value, otherwise; whole numbers are drawn if both are.
      log: draw the logarithm evenly.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @classmethod
    def parse(cls, text: str) -> Parameter:
        """Return the parameter that ``text`` describes.

        Raises:
          ConfigError: it describes none.
        """
        name, separator, values = text.partition("=")
        fields = {field.name for field in dataclasses.fields(TrainConfig)}
        if not separator or not values or not (name in fields or re.fullmatch(r"model\.\w+", name)):
            raise ConfigError(
                f"a parameter must be NAME=LOW:HIGH[:log] or NAME=A|B|C, with a flag of train.py or model.FIELD as its "
                f"name, got {text!r}"
            )
        if match := re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", values):
            low, high = (_value(match[group]) for group in (1, 2))
            if isinstance(low, int | float) and isinstance(high, int | float):
                if not low < high or (match[3] and low <= 0):
                    raise ConfigError(f"{name} must go from a lower to a higher value, above 0 for log, got {values!r}")
                return cls(name, (), low, high, match[3] is not None)
        return cls(name, tuple(_value(choice) for choice in values.split("|")))

    def suggest(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna has to try."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        draw = trial.suggest_int if isinstance(self.low, int) and isinstance(self.high, int) else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def default_search(config: TrainConfig) -> list[Parameter]:
    """Return learning rate, batch size and augmentation around those of a recipe."""
    rate, size = config.learning_rate, config.batch_size
    augment = " ".join(config.augment)
    return [
        Parameter("learning_rate", low=rate / 10, high=rate * 10, log=True),
        Parameter("batch_size", choices=tuple(max(round(size * factor), 1) for factor in (0.5, 1, 2))),
        Parameter("augment", choices=("none", augment) if augment else ("none", "crop:4", "crop:4 mirror")),
    ]


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a trial.

    Raises:
      ConfigError: a value that cannot be.
    """
    flags: dict[str, Any] = {}
    fields = list(config.model_fields)
    for name, value in values.items():
        if name.startswith("model."):
            fields.append(f"{name.removeprefix('model.')}={json.dumps(value)}")
        elif isinstance(getattr(config, name), tuple):
            flags[name] = () if value == "none" else tuple(str(value).split())
        else:
            flags[name] = value
    return dataclasses.replace(config, model_fields=tuple(fields), **flags)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study is kept.

    Attributes:
      folder: of the sweep.
      storage: a file, or the URL of a database; None: a file in ``folder``.
      study: its name there.
      heartbeat: seconds between two signs of life of a trial, in databases.
    """

    folder: Path
    storage: str | None = None
    study: str = "sweep"
    heartbeat: int = 60

    def open(self, config: TrainConfig, index: int = 0) -> Any:
        """Return the study, a new one if there is none, as process ``index`` of several on this machine sees it.

        Raises:
          ConfigError: Optuna or the driver of the database is not installed, or the storage cannot be used.
        """
        optuna = import_optuna()
        study = optuna.create_study(
            study_name=self.study,
            storage=self._open_storage(),
            direction="minimize" if config.measure == "loss" else "maximize",
            load_if_exists=True,
        )
        # No process draws what another draws, or what it drew before it was stopped.
        entropy = [config.seed, index, len(study.get_trials(deepcopy=False))]
        if self.storage is not None:
            entropy.append(zlib.crc32(socket.gethostname().encode()))
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        return study

    @property
    def has_heartbeat(self) -> bool:
        """Whether one machine learns that a process of another is gone."""
        return self.storage is not None and "://" in self.storage and not self.storage.startswith("redis")

    def _open_storage(self) -> Any:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalRedisBackend, JournalStorage

        if self.storage is None:
            return JournalStorage(JournalFileBackend(str(self.folder / "study.log")))
        if "://" not in self.storage:
            file = local_path(self.storage, "storage")
            file.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(file)))
        shown = re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:***@", self.storage)
        import sqlalchemy

        try:
            if self.storage.startswith("redis"):
                return JournalStorage(JournalRedisBackend(self.storage))
            return optuna.storages.RDBStorage(
                # The driver that the extra brings.
                re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.storage),
                # A connection for each question: they are few, and servers close those that are left open for hours.
                engine_kwargs={"poolclass": sqlalchemy.pool.NullPool},
                heartbeat_interval=self.heartbeat,
                grace_period=3 * self.heartbeat,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            )
        except ImportError as error:
            raise ConfigError(f"--storage {shown} needs the package {error.name or error}; install it") from error
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--storage {shown} cannot be used: {reason}; give a file, or a URL such as "
                "postgresql://USER@HOST/DATABASE"
            ) from error


def import_optuna() -> Any:
    """Return Optuna; raises ConfigError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError('experiments/sweep.py needs Optuna: pip install -e ".[sweep]"') from error
    # What a trial fails by is told here; and heartbeats are called experimental each time.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def run_trial(trial: Any, config: TrainConfig, search: Sequence[Parameter], folder: Path) -> float:
    """Train what a trial asks for, in its own folder, and return its best measure."""
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
    """Run trials until there are enough, and return the signal that stopped it, or 0: one of several processes."""
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


def _work(*arguments: Any) -> None:
    """Run `work` as a process of its own, which tells by its exit code how it ended."""
    sys.exit(run_command(lambda: _raise(work(*arguments))))


def _raise(number: int) -> None:
    if number:
        raise Interrupted(number)


def take_up(study: Any, place: Place) -> None:
    """Let trials run again, in their old folders, whose processes are gone."""
    import optuna

    if place.has_heartbeat:
        optuna.storages.fail_stale_trials(study)
        return
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=[states.RUNNING]):
        if (process := trial.user_attrs.get("process")) is None or not is_gone(process):
            continue
        try:
            study.tell(trial.number, state=states.FAIL)
        except ValueError:
            continue  # another process was faster
        if trial.params:
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def sweep(given: argparse.Namespace) -> dict[str, Any]:
    """Run the trials that are left, and return the result."""
    console = Console(highlight=False)
    changes = {name: getattr(given, name) for name in ("model", "dataset", "epochs", "data_dir", "seed")}
    config = dataclasses.replace(
        RECIPES[given.recipe].config, **{name: value for name, value in changes.items() if value is not None}
    )
    config = dataclasses.replace(config, test_split=given.judge_on, parallel=given.parallel)
    search = [Parameter.parse(text) for text in given.search] if given.search else default_search(config)
    for parameter in search:
        # Impossible values are refused before the first trial.
        for value in parameter.choices or (parameter.low, parameter.high):
            with_values(config, {parameter.name: value})
    import_optuna()
    folder = local_path(given.workdir or Path("runs") / f"sweep-{given.recipe}", "workdir")
    place = Place(folder)
    if given.storage is not None:
        place = Place(folder, given.storage, given.study or folder.absolute().name, given.heartbeat)
    with ExitStack() as stack:
        if given.storage is None:
            stack.enter_context(locked(folder))
        return run_trials(given, config, search, place, console)


def run_trials(
    given: argparse.Namespace, config: TrainConfig, search: Sequence[Parameter], place: Place, console: Console
) -> dict[str, Any]:
    """Run the trials that are left, in several processes, and return the result."""
    folder = place.folder
    flags = {name: value for name, value in config.to_json().items() if name not in FREE_FIELDS}
    plan = {"config": flags, "search": [dataclasses.asdict(parameter) for parameter in search]}
    plan = json.loads(json.dumps(plan))
    file = folder / "sweep.json"
    if file.exists() and json.loads(file.read_text()) != plan:
        raise ConfigError(f"{folder} holds another sweep, see {file}; give the same flags, or another --workdir")
    study = place.open(config)
    if study.user_attrs.get("plan", plan) != plan:
        raise ConfigError(
            f"study {place.study!r} in --storage is another sweep; give the same flags, or another --study"
        )
    study.set_user_attr("plan", plan)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, plan)
    # Once, before several processes need it: an embedded set is prepared on first use.
    load_dataset(config.dataset, config.data_dir, train_split=config.train_split, test_split=config.test_split)
    shown = sum(trial.state.name in FINISHED for trial in study.get_trials(deepcopy=False))
    take_up(study, place)
    if again := sum(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
        console.print(f"{again} trials that were stopped go on")
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_work, args=(index, config, search, place, given.trials))
        for index in range(given.processes)
    ]
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
            shown = _report(study, console, config.measure, shown)
        _report(study, console, config.measure, shown)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            _raise(worker.exitcode - 128 if worker.exitcode > 128 else 0)
            raise TrainingError(f"a process of the sweep failed with exit code {worker.exitcode}; see above")
    return conclude(study, config, search, folder, console)


def _report(study: Any, console: Console, measure: str, shown: int) -> int:
    """Print a line for each trial that has ended since, and return how many have."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in FINISHED]
    done.sort(key=lambda trial: trial.datetime_complete)
    for trial in done[shown:]:
        value = trial.user_attrs.get("error", "") if trial.value is None else f"{measure} {trial.value:.4f}"
        console.print(f"trial {trial.number}: {value}  {_text(trial.params)}", markup=False)
    return len(done)


def _text(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )


def conclude(
    study: Any, config: TrainConfig, search: Sequence[Parameter], folder: Path, console: Console
) -> dict[str, Any]:
    """Print the best trials, draw all, and return the result."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not done:
        raise TrainingError("no trial has ended well; see their errors above")
    sign = 1 if config.measure == "loss" else -1
    ranked = sorted(done, key=lambda trial: sign * trial.value)
    table = Table("trial", config.measure, *(parameter.name for parameter in search), box=None, padding=(0, 2, 0, 0))
    for trial in ranked[:10]:
        cells = (
            f"{trial.params[parameter.name]:.4g}"
            if isinstance(trial.params[parameter.name], float)
            else str(trial.params[parameter.name])
            for parameter in search
        )
        table.add_row(trial.user_attrs["folder"], f"{trial.value:.4f}", *cells)
    console.print(table)
    draw(done, search, config, folder / "sweep.png")
    best = ranked[0]
    result = {
        "recipe": config.recipe,
        "measure": config.measure,
        "judged_on": config.test_split,
        "trials": len(study.get_trials(deepcopy=False, states=None)),
        "complete": len(done),
        "best": {"value": best.value, "folder": best.user_attrs["folder"], "parameters": best.params},
    }
    write_json(folder / "result.json", result)
    console.print(f"Best: {config.measure} {best.value:.4f} with {_text(best.params)}", markup=False)
    console.print(f"Files are in {folder}", soft_wrap=True)
    return result


def draw(done: Sequence[Any], search: Sequence[Parameter], config: TrainConfig, path: Path) -> None:
    """Draw the measure of all trials over each parameter, and the best so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullFormatter, NullLocator

    done = sorted(done, key=lambda trial: trial.number)
    scale, label = (1, config.measure) if config.measure == "loss" else (100, f"{config.measure} (%)")
    values = np.array([scale * trial.value for trial in done])
    # In rows of four, so that the picture has the size of a slide.
    across = min(len(search) + 1, 4)
    lines = math.ceil((len(search) + 1) / across)
    figure = Figure(figsize=(3.3 * across + 0.8, 4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{config.model} on {config.dataset}: {len(done)} trials of {config.epochs:g} epochs")
    panels = figure.subplots(lines, across, sharey=True, squeeze=False).ravel()
    for axes in panels[len(search) + 1 :]:
        axes.set_visible(False)
    panels = panels[: len(search) + 1]
    order = np.arange(1, len(done) + 1)
    best = np.minimum.accumulate(values) if config.measure == "loss" else np.maximum.accumulate(values)
    panels[0].scatter(order, values, c=order, cmap="viridis", s=22)
    panels[0].step(order, best, where="post", color="tab:red", label="best so far")
    panels[0].set(xlabel="trial", ylabel=label)
    panels[0].legend()
    for axes, parameter in zip(panels[1:], search, strict=True):
        tried = [trial.params[parameter.name] for trial in done]
        if parameter.choices:
            # Side by side, where many trials tried the same.
            places = np.array([parameter.choices.index(value) for value in tried])
            x = places + np.linspace(-0.15, 0.15, len(done))
            names = [str(choice).replace(" ", "\n") for choice in parameter.choices]
            # About forty letters fit side by side.
            wide = len(names) * max(len(line) for name in names for line in name.split("\n")) > 40
            axes.set_xticks(range(len(names)), names, rotation=35 if wide else 0, ha="right" if wide else "center")
            axes.tick_params(axis="x", labelsize=8)
            axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        else:
            x = np.array(tried)
            axes.set_xscale("log" if parameter.log else "linear")
            if not parameter.log:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            elif x.max() > 10 * x.min():
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                # No power of ten may be among them: two numbers within a decade, each where it stands.
                axes.xaxis.set_major_locator(FixedLocator([x.min(), x.max()] if x.max() > x.min() else [x.min()]))
                axes.xaxis.set_major_formatter(FormatStrFormatter("%.2g"))
                axes.xaxis.set_minor_locator(NullLocator())
        points = axes.scatter(x, values, c=order, cmap="viridis", s=22)
        winner = int(values.argmin() if config.measure == "loss" else values.argmax())
        axes.scatter(x[winner], values[winner], s=90, facecolors="none", edgecolors="tab:red", linewidths=1.5)
        axes.set_xlabel(parameter.name.replace("_", " "))
    figure.colorbar(points, ax=list(panels), label="trial", ticks=MaxNLocator(integer=True))
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-lenet5", choices=sorted(RECIPES))
    parser.add_argument("--trials", type=int, default=20, help="number of trials in all (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="number of trials at a time (default: %(default)s)")
    parser.add_argument("--search", nargs="+", help="what to vary (default: learning rate, batch size, augmentation)")
    parser.add_argument(
        "--judge-on", default="validation", help="split to judge trials on, as --test-split (default: %(default)s)"
    )
    parser.add_argument("--workdir", type=Path, help="folder of the study (default: runs/sweep-<recipe>)")
    parser.add_argument(
        "--storage",
        help="storage of Optuna, a file or a database's URL, shared by several machines (default: in --workdir)",
    )
    parser.add_argument("--study", help="name of the study in --storage (default: the name of --workdir)")
    parser.add_argument(
        "--heartbeat", type=int, default=60, help="seconds between signs of life in a database (default: %(default)s)"
    )
    parser.add_argument("--model", help="network to train (default: the recipe's)")
    parser.add_argument("--dataset", help="data set to train on (default: the recipe's)")
    parser.add_argument("--epochs", type=float, help="epochs per trial (default: the recipe's)")
    parser.add_argument("--data-dir", type=Path, help="folder of prepared data sets")
    parser.add_argument("--seed", type=int, help="seed of the trials and of the search (default: the recipe's)")
    parser.add_argument("--parallel", choices=("auto", "jit", "pmap", "single"), default="auto", help="as in train.py")
    given = parser.parse_args(arguments)
    if given.trials < 1 or given.processes < 1 or given.heartbeat < 1:
        parser.error("--trials, --processes and --heartbeat must be at least 1")
    if given.study is not None and given.storage is None:
        parser.error("--study is the name of a study in --storage; give both")
    return run_command(lambda: sweep(given))


if __name__ == "__main__":
    sys.exit(main())
