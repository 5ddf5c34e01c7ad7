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

A parameter is NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B|C; NAME is a flag of train.py, or "model." and a field of
the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax.data import load_dataset
from cnnjax.training import RECIPES, ConfigError, Interrupted, TrainConfig, TrainingError, fit, run_command
from cnnjax.writing import write_json

FINISHED = "COMPLETE", "PRUNED"


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


def open_study(folder: Path, measure: str, seed: int, index: int = 0) -> Any:
    """Return the study in ``folder``, a new one if there is none, as process ``index`` of several sees it."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
    except ImportError as error:
        raise ConfigError('experiments/sweep.py needs Optuna: pip install -e ".[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        direction="minimize" if measure == "loss" else "maximize",
        load_if_exists=True,
    )
    # No process draws what another draws, or what it drew before it was stopped.
    seeds = np.random.SeedSequence((seed, index, len(study.get_trials(deepcopy=False))))
    study.sampler = optuna.samplers.TPESampler(seed=int(seeds.generate_state(1)[0]))
    return study


def run_trial(trial: Any, config: TrainConfig, search: Sequence[Parameter], folder: Path) -> float:
    """Train what a trial asks for, in its own folder, and return its best measure."""
    import optuna

    place = trial.user_attrs.get("folder", str(trial.number))
    trial.set_user_attr("folder", place)
    values = {parameter.name: parameter.suggest(trial) for parameter in search}
    workdir = folder / "trials" / place
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "log.txt").open("a") as log:
        try:
            run = with_values(dataclasses.replace(config, workdir=workdir), values)
            result = fit(run, Console(file=log, width=120))
        except Interrupted:
            trial.set_user_attr("stopped", True)
            raise
        except (ConfigError, TrainingError) as error:
            # Values that do not go together, or a loss that is not finite, are a result too: a bad one.
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned(str(error)) from error
    return float(result[f"best_test_{config.measure}"])


def work(
    index: int,
    config: TrainConfig,
    search: Sequence[Parameter],
    folder: Path,
    trials: int,
    lock: AbstractContextManager[Any],
) -> int:
    """Run trials until there are enough, and return the signal that stopped it, or 0: one of several processes."""
    import optuna

    study = open_study(folder, config.measure, config.seed, index)
    states = optuna.trial.TrialState
    counted = [states[name] for name in (*FINISHED, "RUNNING")]
    while True:
        # One at a time, so that together they do not begin one too many.
        with lock:
            if len(study.get_trials(deepcopy=False, states=counted)) >= trials:
                return 0
            trial = study.ask()
        try:
            value = run_trial(trial, config, search, folder)
        except optuna.TrialPruned:
            study.tell(trial, state=states.PRUNED)
        except Interrupted as stop:
            study.tell(trial, state=states.FAIL)
            return stop.signal
        else:
            study.tell(trial, value)


def _work(*arguments: Any) -> None:
    """Run `work` as a process of its own, which tells by its exit code how it ended."""
    sys.exit(run_command(lambda: _raise(work(*arguments))))


def _raise(number: int) -> None:
    if number:
        raise Interrupted(number)


def requeue(study: Any) -> int:
    """Let trials that were stopped or killed run again, in their old folders; return how many."""
    import optuna

    again = 0
    trials = study.get_trials(deepcopy=False)
    places = {trial.user_attrs.get("requeued") for trial in trials}
    for trial in trials:
        dead = trial.state == optuna.trial.TrialState.RUNNING
        stopped = trial.state == optuna.trial.TrialState.FAIL and trial.user_attrs.get("stopped")
        if dead:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if (dead or stopped) and trial.params and trial.number not in places:
            folder = trial.user_attrs.get("folder", str(trial.number))
            study.enqueue_trial(trial.params, user_attrs={"folder": folder, "requeued": trial.number})
            again += 1
    return again


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
    folder = given.workdir or Path("runs") / f"sweep-{given.recipe}"
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"config": config.to_json(), "search": [dataclasses.asdict(parameter) for parameter in search]}
    plan = json.loads(json.dumps(plan))
    file = folder / "sweep.json"
    if file.exists() and json.loads(file.read_text()) != plan:
        raise ConfigError(f"{folder} holds another sweep, see {file}; give the same flags, or another --workdir")
    write_json(file, plan)
    # Once, before several processes need it: an embedded set is prepared on first use.
    load_dataset(config.dataset, config.data_dir, train_split=config.train_split, test_split=config.test_split)
    study = open_study(folder, config.measure, config.seed)
    shown = sum(trial.state.name in FINISHED for trial in study.get_trials(deepcopy=False))
    if again := requeue(study):
        console.print(f"{again} trials that were stopped go on")
    spawn = multiprocessing.get_context("spawn")
    lock = spawn.Lock()
    workers = [
        spawn.Process(target=_work, args=(index, config, search, folder, given.trials, lock))
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
            time.sleep(0.2)
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

    done = sorted(done, key=lambda trial: trial.number)
    scale, label = (1, config.measure) if config.measure == "loss" else (100, f"{config.measure} (%)")
    values = np.array([scale * trial.value for trial in done])
    figure = Figure(figsize=(3.2 * (len(search) + 1) + 0.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{config.model} on {config.dataset}: {len(done)} trials of {config.epochs:g} epochs")
    panels = figure.subplots(1, len(search) + 1, sharey=True, squeeze=False)[0]
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
            axes.set_xticks(range(len(parameter.choices)), names)
            axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        else:
            x = np.array(tried)
            axes.set_xscale("log" if parameter.log else "linear")
        points = axes.scatter(x, values, c=order, cmap="viridis", s=22)
        winner = int(values.argmin() if config.measure == "loss" else values.argmax())
        axes.scatter(x[winner], values[winner], s=90, facecolors="none", edgecolors="tab:red", linewidths=1.5)
        axes.set_xlabel(parameter.name)
    figure.colorbar(points, ax=panels, label="trial")
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-lenet5", choices=sorted(RECIPES))
    parser.add_argument("--trials", type=int, default=20, help="in all (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="trials at a time (default: %(default)s)")
    parser.add_argument("--search", nargs="+", help="parameters (default: learning rate, batch size, augmentation)")
    parser.add_argument("--judge-on", default="validation", help="split, as --test-split (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, help="folder of the sweep (default: runs/sweep-<recipe>)")
    parser.add_argument("--model", help="default: the recipe's")
    parser.add_argument("--dataset", help="default: the recipe's")
    parser.add_argument("--epochs", type=float, help="of each trial (default: the recipe's)")
    parser.add_argument("--data-dir", type=Path, help="folder of prepared data sets")
    parser.add_argument("--seed", type=int, help="of the trials and of what is tried (default: the recipe's)")
    parser.add_argument("--parallel", choices=("auto", "jit", "pmap", "single"), default="auto", help="as in train.py")
    given = parser.parse_args(arguments)
    if given.trials < 1 or given.processes < 1:
        parser.error("--trials and --processes must be at least 1")
    return run_command(lambda: sweep(given))


if __name__ == "__main__":
    sys.exit(main())
