"""What a run measured, as TensorBoard shows it, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.training.config import ConfigError


class EventLog:
    """TensorBoard's event files of a run; a context manager.

    Args:
      directory: where; a new file each time a run is begun or resumed.
      step: the step to go on from; TensorBoard leaves out what older files hold of later ones.
    Raises:
      ConfigError: tensorboardX is not installed.
    """

    def __init__(self, directory: Path, step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                '--tensorboard needs the package tensorboardX: pip install -e ".[tensorboard]"'
            ) from error
        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record of ``metrics.jsonl``, under ``train/`` or ``epoch/``."""
        for name, value in record.items():
            if name not in ("kind", "step") and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        self._writer.flush()
