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
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnjax.data import load_dataset
from cnnjax.places import local_path
from cnnjax.runs import locked
from cnnjax.sweep import (
    Parameter,
    Place,
    default_search,
    draw,
    import_optuna,
    run_processes,
    take_up,
    with_values,
)
from cnnjax.sweep.trials import FINISHED
from cnnjax.training import RECIPES, ConfigError, TrainConfig, TrainingError, run_command
from cnnjax.training.run_config import FREE_FIELDS
from cnnjax.writing import write_json


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
    reporter = Reporter(study, console, config.measure)
    take_up(study, place)
    if again := sum(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
        console.print(f"{again} trials that were stopped go on")
    run_processes(given.processes, config, search, place, given.trials, reporter.report)
    return conclude(study, config, search, folder, console)


class Reporter:
    """Tells of each trial that ends.

    Args:
      study: of Optuna; what has ended in it by now is not told of.
      console: where to.
      measure: what trials are judged by.
    """

    def __init__(self, study: Any, console: Console, measure: str) -> None:
        self.study = study
        self.console = console
        self.measure = measure
        self.count = len(self._ended())

    def _ended(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name in FINISHED]

    def report(self) -> None:
        """Print a line for each trial that has ended since."""
        ended = sorted(self._ended(), key=lambda trial: trial.datetime_complete)
        for trial in ended[self.count :]:
            value = trial.user_attrs.get("error", "") if trial.value is None else f"{self.measure} {trial.value:.4f}"
            self.console.print(f"trial {trial.number}: {value}  {_text(trial.params)}", markup=False)
        self.count = len(ended)


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
