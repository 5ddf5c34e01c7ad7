"""Compiled programs that are kept from one process to the next, with JAX's persistent compilation cache."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from cnnjax.nn.onednn import is_asked
from cnnjax.places import cache_folder, local_path

# In place of a folder: nothing is kept.
OFF = "off"
FOLDER = "jax_compilation_cache_dir"
VARIABLE = "CNNJAX_COMPILATION_CACHE"
# Bytes. What was not used for longest goes first.
LIMIT = 4 * 2**30
LOCK_SECONDS = 10


def use_compilation_cache(place: str | os.PathLike[str] | None = None) -> str:
    """Keep programs that take a second or more to compile, and take them from where they are kept.

    Several processes may share a folder, which one lock guards. A folder that cannot be written to is read. An entry
    that cannot be read or written, because it is damaged or the disk is full, is a warning of JAX, and its program is
    compiled. What is kept is the program itself, so that a resumed run has the same bits. Where `cnnjax.nn.onednn` was
    asked for, nothing is kept.

    Args:
      place: a folder, in which each kind of processor gets one of its own; "off": none, but for what
        ``$JAX_COMPILATION_CACHE_DIR`` tells JAX. None: what ``$CNNJAX_COMPILATION_CACHE`` says, or else the folder that
        JAX was told of, or else one in the user's cache.
    Returns:
      What is done, for a message.
    Raises:
      PathError: the folder is not of this machine.
    """
    if is_asked():
        _set(None)
        return "compiled programs are not kept: XLA cannot store those with oneDNN"
    given = place or os.environ.get(VARIABLE)
    if given == OFF:
        told = os.environ.get("JAX_COMPILATION_CACHE_DIR")
        if getattr(jax.config, FOLDER) != told:
            _set(Path(told) if told else None)
        return "compiled programs are not kept"
    if given is None and (told := getattr(jax.config, FOLDER)):
        return f"compiled programs are kept in {told}"
    parent = cache_folder() if given is None else local_path(given, "compilation_cache")
    if parent is None:
        return "compiled programs are not kept: there is no home folder"
    folder = parent / ("programs" if given is None else "") / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        if writable:
            # JAX's own lock.
            with filelock.FileLock(folder / ".lockfile", timeout=LOCK_SECONDS):
                _remove_unfinished(folder)
    except filelock.Timeout:
        _set(None)
        return f"compiled programs are not kept: another process does not let go of {folder}"
    except OSError as error:
        _set(None)
        return f"compiled programs are not kept: {folder}: {error.strerror}"
    _set(folder, writable)
    return f"compiled programs are {'kept in' if writable else 'read from'} {folder}"


def _set(folder: Path | None, writable: bool = True) -> None:
    """Tell JAX, which looks at its settings when it compiles for the first time, or after a reset."""
    jax.config.update(FOLDER, folder and str(folder))
    # The lock that goes with a limit is a file in the folder.
    jax.config.update("jax_compilation_cache_max_size", LIMIT if writable else -1)
    if not writable:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    compilation_cache.reset_cache()


def _processor() -> str:
    """Return a name of this kind of processor: a program for another one may use instructions that this one lacks."""
    found = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().partition("\n\n")[0].splitlines()
        found += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:8]


def _remove_unfinished(folder: Path) -> None:
    """Remove entries that a process died while writing: they lack the time of their last use, which comes second."""
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
            entry.unlink(missing_ok=True)
