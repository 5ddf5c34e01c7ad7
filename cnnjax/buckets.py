"""Runs and data in buckets, through copies on this machine.

A path such as ``gs://bucket/run`` stands for a copy in ``$CNNJAX_CACHE/buckets``, which is what programs read and
write: object stores can neither append to a file nor rename a folder. The bucket is what counts: a copy is made like it
before it is read, unless a run on this machine is writing to it. What a run writes is sent after each checkpoint and at
the end, and training waits for that. An object is replaced as a whole or not at all, so that whoever reads meanwhile
finds whole files; checkpoints that were sent in part are known by their checksums. ``result.json`` is sent last. Data
is fetched, and never sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnjax.alive import is_gone
from cnnjax.places import url_of

# What belongs to this machine, or is not whole yet.
LOCK = "lock.json"
UNFINISHED = ".orbax-checkpoint-tmp"


class BucketError(OSError):
    """A bucket that cannot be read or written, and what to do about it."""


def fetch(path: Path) -> Path:
    """Make the copy of a file or folder in a bucket like it, and return its path.

    Args:
      path: see `cnnjax.places.local_path`; one that is no copy, or that a process writes to, is returned as it is.
    Raises:
      BucketError: the bucket cannot be read.
    """
    if (url := url_of(path)) is not None and not _is_written(path):
        with _explained(url, "read"):
            _pull(_remote(url), path)
    return path


def _is_written(path: Path) -> bool:
    """Return whether a process of this machine, or this one, has the copy of a run locked."""
    try:
        return not is_gone(json.loads((path / LOCK).read_text()))
    except (OSError, ValueError, KeyError):
        return False


class Mirror:
    """A folder in a bucket that is kept like its copy on this machine.

    Args:
      folder: the copy.
      url: the folder in the bucket.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._sent: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Make the copy like the bucket; raises BucketError if that cannot be read."""
        with _explained(self.url, "read"):
            _pull(_remote(self.url), self.folder)
        self._sent = self._files()

    def push(self) -> None:
        """Make the bucket like the copy; raises BucketError if that cannot be written, and the next call goes on."""
        files = self._files()
        with _explained(self.url, "written"):
            for name in sorted(files, key=lambda name: (name == "result.json", name)):
                if self._sent.get(name) != files[name]:
                    target = _remote(self.url) / name
                    with (self.folder / name).open("rb") as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
                    self._sent[name] = files[name]
            # Not before what takes their place is there.
            for name in self._sent.keys() - files.keys():
                (_remote(self.url) / name).unlink(missing_ok=True)
                del self._sent[name]

    def read_lock(self) -> str | None:
        """Return what the lock in the bucket says, None if there is none."""
        with _explained(self.url, "read"):
            file = _remote(self.url) / LOCK
            return file.read_text() if file.exists() else None

    def write_lock(self, text: str | None) -> None:
        """Write the lock in the bucket, or remove it for None."""
        with _explained(self.url, "written"):
            file = _remote(self.url) / LOCK
            if text is None:
                file.unlink(missing_ok=True)
            else:
                file.write_text(text)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change of each file of the copy that belongs to the bucket."""
        found = {}
        for where, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if UNFINISHED not in name]
            for name in names:
                if name != LOCK and not name.startswith("."):
                    path = Path(where) / name
                    status = path.stat()
                    found[path.relative_to(self.folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        return found


_mirrors: dict[Path, Mirror] = {}


@contextlib.contextmanager
def mirrored(mirror: Mirror) -> Iterator[None]:
    """Fetch a folder, let `publish` send it, and send it at the end, also if that is an error."""
    mirror.pull()
    _mirrors[mirror.folder] = mirror
    try:
        yield
    finally:
        del _mirrors[mirror.folder]
        mirror.push()


def publish(folder: Path) -> None:
    """Send what has changed in a folder that is `mirrored`; for others there is nothing to do."""
    if (mirror := _mirrors.get(folder)) is not None:
        mirror.push()


def _remote(url: str) -> Any:
    """Return the path of a URL, as etils has them."""
    from etils import epath

    return epath.Path(url)


def _pull(source: Any, target: Path) -> None:
    if source.is_dir():
        if target.is_file():
            target.unlink()
        target.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in source.iterdir()} - {LOCK, ""}
        for entry in target.iterdir():
            if entry.name not in names and entry.name != LOCK:
                _remove(entry)
        for name in sorted(names):
            _pull(source / name, target / name)
    elif source.exists():
        status = source.stat()
        # Some stores do not tell the time of change.
        if status.mtime and target.is_file():
            own = target.stat()
            if (own.st_size, int(own.st_mtime)) == (status.length, status.mtime):
                return
        _remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with source.open("rb") as file, part.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        part.replace(target)
        os.utime(target, (status.mtime, status.mtime))
    else:
        _remove(target)


def _remove(path: Path) -> None:
    """Remove what a bucket does not have (any more); the lock of this machine stays."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        if entry.name != LOCK:
            _remove(entry)
    with contextlib.suppress(OSError):
        path.rmdir()


@contextlib.contextmanager
def _explained(url: str, what: str) -> Iterator[None]:
    """Turn whatever a client of object stores raises, in its many classes, into one error."""
    try:
        yield
    except ImportError as error:
        raise BucketError(f'{url} needs the package gcsfs: pip install "cnnjax[gcs]"') from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BucketError(f"{url} cannot be {what}: {reason}; check the bucket's name, access and network") from error
