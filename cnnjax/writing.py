"""Files that are written whole or not at all, so that a process may be killed at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: str | os.PathLike[str], content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Args:
      path: of the file, which is replaced if it is there.
      content: text, bytes, or a function that writes to an open file.
    Raises:
      OSError: it cannot be written; what was there before is untouched.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, see `write_whole`."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def sync_folder(path: Path) -> None:
    """Make sure that the names of new files outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
