"""The folder of a run: what it was started with, what it measured, what came out."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Protocol

from cnnjax.runs.reader import FORMAT
from cnnjax.writing import sync_folder, write_json, write_whole

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
# Packages of cuDNN, by the version of CUDA, without their maker: convolutions on NVIDIA GPUs are its algorithms.
CUDNN = ("cudnn-cu12", "cudnn-cu13")

# Characters with which checkpoints would be written, and not be found when they are read.
PATTERN = frozenset("*[]\\")


class WorkdirError(ValueError):
    """A folder that cannot hold this run: of another one, damaged, in use, or not to be written."""


def make_folder(path: Path) -> None:
    """Make the folder of a run, if it is not there; raises WorkdirError if it cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"workdir {str(path)!r} cannot be made: {error.strerror}; give another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise WorkdirError(f"workdir {str(path)!r} cannot be written; change its permissions or give another")


class Config(Protocol):
    """What a run was asked to do.

    Attributes:
      free_fields: fields that may change between two parts of the run.
    """

    @property
    def free_fields(self) -> Set[str]:
        """See the class."""

    def normal(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a run of any version as this one has them, from what `to_json` gave."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""

    def lengthens(self, saved: Mapping[str, Any]) -> bool:
        """Return whether this is the run that `normal` gave, only longer, with the same steps until then."""

    def way_out(self, differing: Set[str]) -> str:
        """Return what to do about a folder of a run that these fields differ from."""


class RunDirectory:
    """The files of a run.

    ``config.json``: everything needed to repeat it. ``metrics.jsonl``: one record a line, by step. ``checkpoints/``.
    ``curves.png``. ``result.json``: there once the run is complete. ``lock.json``: there while a process writes, see
    `cnnjax.runs.locked`.

    Args:
      path: where; nothing is made before `create`.
      config: of the run; if it is that of the one there for more epochs (see `Config.lengthens`), the run goes on.

    Attributes:
      grows: whether that is so; `create` makes it so on the disk.

    Raises:
      WorkdirError: ``path`` holds a run of another config; the differing fields are listed. Or it is one that
        checkpoints cannot be written to.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.grows = False
        self._pending: list[str] = []
        if found := PATTERN.intersection(str(path.absolute())):
            raise WorkdirError(
                f"workdir {str(path.absolute())!r} must not hold {' '.join(sorted(found))}, which Orbax, that writes "
                "checkpoints, takes for a pattern or a folder; give another"
            )
        if self.config_file.exists():
            self._compare()

    @property
    def config_file(self) -> Path:
        """What the run was started with."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """What the run measured."""
        return self.path / "metrics.jsonl"

    @property
    def result_file(self) -> Path:
        """What came out."""
        return self.path / "result.json"

    @property
    def checkpoint_directory(self) -> Path:
        """Where its checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def events_directory(self) -> Path:
        """Where TensorBoard's event files lie."""
        return self.path / "events"

    @property
    def profile_directory(self) -> Path:
        """Where the profiler's traces lie."""
        return self.path / "profile"

    @property
    def curves_file(self) -> Path:
        """Loss and accuracy over epochs."""
        return self.path / "curves.png"

    def _compare(self) -> None:
        saved = self._read()["config"]
        ours = self.config.to_json()
        saved = saved | self.config.normal(saved)
        differing = [
            field
            for field in sorted((saved.keys() | ours.keys()) - self.config.free_fields)
            if saved.get(field, None) != ours.get(field, None)
        ]
        self.grows = differing == ["epochs"] and self.config.lengthens(saved)
        if differing and not self.grows:
            lines = [
                f"  {field}: {saved.get(field, 'not there')!r} there, {ours.get(field, 'not there')!r} now"
                for field in differing
            ]
            raise WorkdirError(
                f"workdir {str(self.path)!r} holds a run of another config:\n"
                + "\n".join(lines)
                + f"\n{self.config.way_out(set(differing))}"
            )

    def _read(self) -> dict[str, Any]:
        try:
            saved = json.loads(self.config_file.read_text())
            _ = saved["config"].keys(), saved.get("resolved", {}).keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WorkdirError(
                f"{self.config_file} cannot be read ({error}); restore it, or give another --workdir"
            ) from error
        return saved

    def create(self, resolved: Mapping[str, Any]) -> None:
        """Make the folder and write ``config.json``, unless they are there; of a run that grows, note how long it is.

        Args:
          resolved: what the config left to the data and the network.
        Raises:
          WorkdirError: the folder cannot be made or written.
        """
        make_folder(self.path)
        if self.grows:
            saved = self._read()
            # First, since a run of this many epochs has none yet.
            self.result_file.unlink(missing_ok=True)
            saved["config"]["epochs"] = self.config.to_json()["epochs"]
            saved["resolved"]["steps"] = resolved["steps"]
            write_json(self.config_file, saved)
            self.grows = False
        if self.config_file.exists():
            return
        write_json(
            self.config_file,
            {
                "format": FORMAT,
                "config": self.config.to_json(),
                "resolved": dict(resolved),
                "versions": {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()},
                "git_commit": git_commit(),
            },
        )

    def check_resolved(self, resolved: Mapping[str, Any]) -> list[str]:
        """Compare what the config left to the data and the machine with what it was when the run began.

        The same flags can mean other images: another library resizes them, their mean is of other data, or a smaller
        memory budget leaves their mean to the network.

        Args:
          resolved: as it is now.
        Returns:
          What differs and may go on, in words: the version of the library that resizes, the device, whether
          oneDNN was asked for, and the versions of cuDNN on a GPU and of jaxlib, which holds the compiler. All of them
          may round otherwise.
        Raises:
          WorkdirError: anything else that both know of differs.
        """
        if not self.config_file.exists():
            return []
        read = self._read()
        # Runs of versions that had no oneDNN do not speak of it.
        saved = {"onednn": False} | read.get("resolved", {})
        now = json.loads(json.dumps(dict(resolved)))
        notices: list[str] = []
        differing: list[str] = []
        for name in sorted((saved.keys() & now.keys()) - ({"steps"} if self.grows else set())):
            if _same(saved[name], now[name]):
                continue
            line = f"{name}: {_short(saved[name])} there, {_short(now[name])} now"
            if name == "resizer" and str(saved[name]).split()[0] == str(now[name]).split()[0]:
                notices.append(f"{line}: images may differ by rounding from those before")
            elif name == "device":
                notices.append(f"{line}: results may differ by rounding from a run on one device")
            elif name == "onednn":
                notices.append(f"{line}: results may differ by rounding from a run with one setting throughout")
            elif name in CUDNN:
                notices.append(f"{line}: results may differ by rounding from a run with one version")
            else:
                differing.append(line)
        if differing:
            raise WorkdirError(
                f"workdir {str(self.path)!r} holds a run of the same flags that meant something else there:\n  "
                + "\n  ".join(differing)
                + "\ngo on with the data, the packages, JAX's settings, the --resizer and the --memory-budget-mib that "
                "it began with, or give another --workdir to start afresh"
            )
        began, current = read.get("versions", {}).get("jaxlib"), package_version("jaxlib")
        if began not in (None, current):
            notices.append(
                f"jaxlib: {began} there, {current} now: results may differ by rounding from a run with one version"
            )
        return notices

    def result(self) -> dict[str, Any] | None:
        """Return the result of a complete run, or None; one that grows is not complete any more."""
        return json.loads(self.result_file.read_text()) if self.result_file.exists() and not self.grows else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, which marks the run as complete."""
        write_json(self.result_file, result)

    def records(self) -> list[dict[str, Any]]:
        """Return the records of ``metrics.jsonl``; a last line that was cut off is left out."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def forget_after(self, step: int) -> None:
        """Drop the records after ``step``, which a run that resumes from there will write again."""
        kept = [record for record in self.records() if record["step"] <= step]
        if self.metrics_file.exists():
            write_whole(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record to ``metrics.jsonl``, on the disk when this returns.

        Raises:
          OSError: it could not be written, and will be by the next call of this or of `flush` that can.
        """
        self._pending.append(json.dumps(dict(record)) + "\n")
        self.flush()

    def flush(self) -> None:
        """Write the records that could not be written before; raises OSError if that is still so."""
        if not self._pending:
            return
        size = self.metrics_file.stat().st_size if self.metrics_file.exists() else None
        try:
            with self.metrics_file.open("a") as file:
                file.write("".join(self._pending))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # Parts of lines would be in the way of the next try.
            if self.metrics_file.exists():
                os.truncate(self.metrics_file, size or 0)
            raise
        self._pending.clear()
        if size is None:
            sync_folder(self.path)


def _same(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are equal; numbers may differ by what other machines round."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def package_version(name: str) -> str | None:
    """Return the version of an installed package; None of one that is not, as a source tree that runs in place."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of the source that runs, ``-dirty`` if it was changed since; None outside a git checkout."""
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
