"""Where files are: paths as users write them, and the folders that are taken where none is given."""

from __future__ import annotations

import os
import re
from pathlib import Path

# A scheme has two letters or more, as one letter names a drive. `pathlib.Path` makes one slash of two.
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")
# Schemes of the buckets that runs and data may be in.
BUCKETS = ("gs",)


class PathError(ValueError):
    """A path that cannot be used, and what to do about it."""


def local_path(path: str | os.PathLike[str], what: str, *, buckets: bool = False) -> Path:
    """Return a path as a user wrote it, with ``~`` and ``~name`` for home folders.

    Args:
      path: of a file or folder on this machine, or on a drive that is mounted here.
      what: to call it in errors, such as "workdir".
      buckets: take ``gs://bucket/path`` as well, and return where its copy is, see `cnnjax.buckets`.
    Raises:
      PathError: another URL, such as ``s3://`` or ``hdfs://``; or a home folder where there is none.
    """
    text = os.fspath(path)
    if (url := SCHEME.match(text)) is not None:
        scheme, rest = url[1], text[url.end() :].strip("/")
        if buckets and scheme in BUCKETS:
            return _copy_of(scheme, rest, what)
        supported = " or gs://" if buckets else ""
        raise PathError(
            f"{what} must be a folder or file of this machine{supported}, and {scheme}:// is not supported, got "
            f"'{scheme}://{rest}'; mount the bucket or share here and give that path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise PathError(
            f"{what} {text!r} is in a home folder that is not there; set HOME, or give a path without ~"
        ) from error


def _copy_of(scheme: str, rest: str, what: str) -> Path:
    folder = cache_folder()
    if folder is None:
        raise PathError(f"{what} {scheme}://{rest} is copied to ~/.cache/cnnjax, and there is no home folder; set HOME")
    parts = rest.split("/")
    if not parts[0] or ".." in parts:
        raise PathError(f"{what} must be {scheme}://BUCKET/PATH, got '{scheme}://{rest}'")
    return folder.absolute().joinpath("buckets", scheme, *parts)


def url_of(path: Path) -> str | None:
    """Return the URL whose copy a path is, see `local_path`; None for other paths."""
    folder = cache_folder()
    if folder is None or not path.is_relative_to(folder.absolute() / "buckets"):
        return None
    scheme, *rest = path.relative_to(folder.absolute() / "buckets").parts
    return f"{scheme}://{'/'.join(rest)}"


def shown(path: Path) -> str:
    """Return what to call a path in messages: as the user wrote it, if it is the copy of a URL."""
    return url_of(path) or str(path)


def output_file(given: str | os.PathLike[str] | None, script: str, name: str) -> Path:
    """Return where a script leaves what it makes of a user's files, and make the folder.

    That is where the user says, or else ``outputs/<script>/`` in the current folder: never beside the files themselves,
    which may lie in a folder of training images.

    Args:
      given: the file that the user asked for, if any.
      script: name of the script.
      name: of the file otherwise.
    Raises:
      PathError: see `local_path`.
    """
    path = Path("outputs") / script / name if given is None else local_path(given, "output")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def home_folder() -> Path | None:
    """Return the user's home folder; None where HOME is not set and the user has no entry, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder() -> Path | None:
    """Return where files are kept that can be made or fetched again: ``$CNNJAX_CACHE`` or ``~/.cache/cnnjax``."""
    if given := os.environ.get("CNNJAX_CACHE"):
        return local_path(given, "CNNJAX_CACHE")
    home = home_folder()
    return None if home is None else home / ".cache" / "cnnjax"
