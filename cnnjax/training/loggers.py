"""Where the records of a run go besides ``metrics.jsonl``: TensorBoard, Weights & Biases, or functions of yours.

A logger is called with each record, a mapping with ``kind`` ("train" or "epoch"), ``step`` and numbers. What it raises
stops the run. If it is a context manager as well, it is entered before the first record and left after the last.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.runs.directory import RunDirectory
from cnnjax.training.flags import ConfigError
from cnnjax.training.run_config import RunConfig
from cnnjax.writing import write_json

Logger = Callable[[Mapping[str, Any]], object]


class EventLog:
    """TensorBoard's event files of a run, written without TensorFlow; a logger and a context manager.

    Args:
      directory: where; a new file each time a run is begun or resumed.
      step: the step to go on from; TensorBoard leaves out what older files hold of later ones.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._writer = _package("tensorboard").SummaryWriter(str(directory), purge_step=step + 1)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record, under ``train/`` or ``epoch/``."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()


class WandbLog:
    """A run in a project of Weights & Biases; a logger and a context manager.

    Its id is kept in ``wandb.json``, so that a resumed run continues there too.

    Args:
      directory: folder of the run; what the package keeps on disk is in ``wandb/`` there.
      project: name of the project.
      config: what the run is asked to be.
    """

    def __init__(self, directory: Path, project: str, config: Mapping[str, Any]) -> None:
        package = _package("wandb")
        file = directory / "wandb.json"
        if not file.exists():
            write_json(file, {"id": secrets.token_hex(8)})
        self._run = package.init(
            project=project,
            id=json.loads(file.read_text())["id"],
            resume="allow",
            name=directory.absolute().name,
            dir=str(directory),
            config=dict(config),
            # It would take the lines of the progress for output to keep.
            settings=package.Settings(console="off"),
        )

    def __enter__(self) -> WandbLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of a record, under ``train/`` or ``epoch/``."""
        self._run.log(_numbers(record), step=record["step"])


PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def check_packages(config: RunConfig) -> None:
    """Refuse flags whose package is not installed, before a run begins; raises ConfigError."""
    for flag in PACKAGES:
        if getattr(config, flag):
            _package(flag)


def open_loggers(
    config: RunConfig, directory: RunDirectory, step: int, others: Sequence[Logger], stack: contextlib.ExitStack
) -> list[Logger]:
    """Return the loggers that a config asks for and others, entered where they are context managers.

    Args:
      config, directory: of the run.
      step: the step from which the run resumes.
      others: loggers of the caller's.
      stack: leaves them.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        loggers.append(EventLog(directory.events_directory, step))
    if config.wandb:
        loggers.append(WandbLog(directory.path, config.wandb, config.to_json()))
    loggers += others
    for logger in loggers:
        if isinstance(logger, contextlib.AbstractContextManager):
            stack.enter_context(logger)
    return loggers


def _package(flag: str) -> Any:
    """Return the package that a flag needs, or raise ConfigError."""
    name = PACKAGES[flag]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f'--{flag} needs the package {name}: pip install "cnnjax[{flag}]"') from error


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, int | float)
    }
