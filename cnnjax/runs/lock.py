"""One writer per workdir: a file in it says which process uses it.

The file is ``lock.json``. It goes when the process is done, whether it ends well, by an error or by a signal that can
be caught; one that a killed process has left is taken over by the next process on the same machine.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cnnjax.alive import is_gone, process_identity
from cnnjax.buckets import LOCK, Mirror, mirrored
from cnnjax.places import shown, url_of
from cnnjax.runs.directory import WorkdirError, make_folder

# What this process has locked, and which of its threads.
_held: dict[Path, int] = {}
_guard = threading.Lock()


class WorkdirInUseError(WorkdirError):
    """A workdir that another process, or another thread of this one, writes to."""


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Make a workdir and keep other processes from writing to it, until this context ends.

    Within such a context the same thread may enter another one of the same workdir. A folder that nothing was written
    to is removed again.

    Args:
      workdir: folder of a run.
    Raises:
      WorkdirInUseError: another process uses it; nothing there was changed.
      WorkdirError: it cannot be made or written.
    """
    key = workdir.resolve()
    with _guard:
        holder = _held.get(key)
        if holder is None:
            made = _missing(workdir)
            try:
                make_folder(workdir)
                _take(workdir)
            except BaseException:
                _remove_empty(made)
                raise
            _held[key] = threading.get_ident()
    if holder is not None:
        if holder != threading.get_ident():
            raise WorkdirInUseError(f"workdir {shown(workdir)!r} is in use by another thread of this process")
        yield
        return

    owner = os.getpid()
    url = url_of(workdir)
    mirror = None if url is None else Mirror(workdir, url)

    def release() -> None:
        if os.getpid() != owner:  # a fork of it, such as one that decodes images
            return
        if mirror is not None and taken:
            mirror.write_lock(None)
        with contextlib.suppress(FileNotFoundError):
            _file(workdir).unlink()
        _remove_empty(made)

    taken = False
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_released_by_signals(release))
            if mirror is not None:
                _take_in_bucket(mirror)
                taken = True
                stack.enter_context(mirrored(mirror))
            yield
    finally:
        with _guard:
            release()
            del _held[key]


def _file(workdir: Path) -> Path:
    return workdir / LOCK


def _missing(path: Path) -> list[Path]:
    """Return which folders of a path are not there, the deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _take(workdir: Path) -> None:
    """Write the lock, or raise WorkdirInUseError."""
    file = _file(workdir)
    ours = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    aside = ours.with_name(f"{ours.name}.gone")
    # Where another process is at work, nothing is written at all.
    _displace(workdir, file, aside)
    try:
        # It need not outlive a power cut.
        ours.write_text(_lock_text())
        while not _create(ours, file):
            _displace(workdir, file, aside)
    except OSError as error:
        raise WorkdirError(f"workdir {str(workdir)!r} cannot be written: {error.strerror or error}") from error
    finally:
        ours.unlink(missing_ok=True)


def _take_in_bucket(mirror: Mirror) -> None:
    """Write the lock in a bucket, or raise WorkdirInUseError.

    Its objects cannot be created unless they are there, so what was written is read again: of two processes that start
    within the same moment on two machines, the later one wins and the earlier one stops here.
    """
    ours = _lock_text()
    if (text := mirror.read_lock()) is not None:
        _require_gone(mirror.url, f"{mirror.url}/{LOCK}", text)
    mirror.write_lock(ours)
    if (text := mirror.read_lock()) != ours:
        _require_gone(mirror.url, f"{mirror.url}/{LOCK}", text or "")


def _lock_text() -> str:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return json.dumps({**process_identity(), "since": now}) + "\n"


def _create(ours: Path, file: Path) -> bool:
    """Put the lock in its place, whole, unless there is one."""
    try:
        os.link(ours, file)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links: an empty lock, for a moment.
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(ours.read_bytes())
    return True


def _displace(workdir: Path, file: Path, aside: Path) -> None:
    """Take away the lock of a process that is gone, or raise WorkdirInUseError."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return
    except OSError as error:
        raise WorkdirInUseError(f"{file} cannot be read: {error.strerror}") from error
    _require_gone(workdir, file, text)
    try:
        file.rename(aside)
    except FileNotFoundError:
        return
    # Between reading and renaming, another process may have done the same and put its own lock here.
    if aside.read_text() != text:
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
    aside.unlink()


def _require_gone(workdir: Path | str, file: Path | str, text: str) -> None:
    try:
        there = json.loads(text)
        host, pid, since = str(there["host"]), int(there["pid"]), str(there["since"]).replace("T", " ")
    except (ValueError, KeyError, TypeError) as error:
        raise WorkdirInUseError(
            f"workdir {str(workdir)!r} is in use, and its {LOCK} does not say by which process; if there is none, "
            f"remove {file}"
        ) from error
    if host != socket.gethostname():
        raise WorkdirInUseError(
            f"workdir {str(workdir)!r} is in use by process {pid} on {host} since {since}; wait for it, give another "
            f"--workdir, or remove {file} if that process is gone"
        )
    # What this process has left and does not hold is of nobody.
    if pid != os.getpid() and not is_gone(there):
        raise WorkdirInUseError(
            f"workdir {str(workdir)!r} is in use by process {pid} on this machine since {since}; wait for it, or give "
            "another --workdir"
        )


@contextlib.contextmanager
def _released_by_signals(release: Any) -> Iterator[None]:
    """Release when SIGTERM ends the process by default; SIGINT is an exception, and whoever handles others returns."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
