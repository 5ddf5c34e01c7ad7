"""What is on disk of a run, who wrote it, and how it is read."""

from typing import TYPE_CHECKING

from cnnjax.lazy import lazy_names
from cnnjax.runs.directory import RunDirectory, WorkdirError
from cnnjax.runs.images import ImageFormat
from cnnjax.runs.lock import WorkdirInUseError, locked
from cnnjax.runs.network import LoadedNetwork, Prediction
from cnnjax.runs.reader import WeightsFileError
from cnnjax.runs.run import Run, load_run

# Orbax, with which checkpoints are written, takes seconds to import; runs are read without it.
if TYPE_CHECKING:
    from cnnjax.runs.checkpoints import CheckpointError, CheckpointMismatchError, Checkpoints
    from cnnjax.runs.export import export_network, export_onnx, export_run

__getattr__ = lazy_names(
    __name__,
    {
        "cnnjax.runs.checkpoints": ("CheckpointError", "CheckpointMismatchError", "Checkpoints"),
        "cnnjax.runs.export": ("export_network", "export_onnx", "export_run"),
    },
)

__all__ = [
    "CheckpointError",
    "CheckpointMismatchError",
    "Checkpoints",
    "ImageFormat",
    "LoadedNetwork",
    "Prediction",
    "Run",
    "RunDirectory",
    "WeightsFileError",
    "WorkdirError",
    "WorkdirInUseError",
    "export_network",
    "export_onnx",
    "export_run",
    "load_run",
    "locked",
]
