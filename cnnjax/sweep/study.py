"""Where a study of Optuna is kept, so that processes and machines share it."""

from __future__ import annotations

import dataclasses
import re
import socket
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.alive import is_gone
from cnnjax.places import local_path
from cnnjax.training import ConfigError, TrainConfig


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

        Args:
          config: of the trials; its ``measure`` says what is better, its ``seed`` what is drawn.
          index: of this process among those of the machine.
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
        raise ConfigError('a sweep needs the package optuna: pip install "cnnjax[sweep]"') from error
    # What a trial fails by is told here; and heartbeats are called experimental each time.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def take_up(study: Any, place: Place) -> None:
    """Let trials run again, in their old folders, whose processes are gone.

    Args:
      study: of Optuna.
      place: where it is kept.
    """
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
