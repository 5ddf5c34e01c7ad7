"""Which kind of file of weights a file is, by its first bytes, and weights in several files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.pretrained.arrays import WeightsFileError, file_size, quoted
from cnnjax.pretrained.flax_files import read_flax
from cnnjax.pretrained.keras_files import read_keras
from cnnjax.pretrained.safetensors_files import read_safetensors
from cnnjax.pretrained.torch_files import read_torch

Reader = Callable[[Path], Mapping[str, Any]]
# Files of a folder or repository that hold weights, in the order in which they are asked for.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.weights.h5",
)
INDEX = ".index.json"
# Bytes. A list of parts is shorter.
MAX_INDEX = 16 * 2**20
# What files are called that do not begin as any of these do: they are damaged, and their reader says how.
SUFFIXES: Mapping[str, Reader] = {
    ".safetensors": read_safetensors,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
    ".ckpt": read_torch,
    ".tar": read_torch,
    ".h5": read_keras,
    ".keras": read_keras,
    ".mpk": read_flax,
    ".msgpack": read_flax,
}


def weights_in(folder: Path) -> Path | None:
    """Return the file with the weights in a folder as hubs have them; None if there is none."""
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def find_reader(path: Path) -> Reader:
    """Return what reads a file of weights.

    Raises:
      WeightsFileError: there is no such file, or it is of no kind that is read here.
    """
    if path.suffix.lower() not in SUFFIXES and not path.exists():
        raise WeightsFileError(
            f"there is no {path}; give a folder of a run, or a file that ends in one of {', '.join(SUFFIXES)}"
        )
    file_size(path)
    if path.name.endswith(INDEX):
        return read_parts
    reader = _by_contents(path) or SUFFIXES.get(path.suffix.lower())
    if reader is None:
        raise WeightsFileError(
            f"{path} is not a file of weights of safetensors, PyTorch, Keras or Flax, nor a folder of a run"
        )
    return reader


def _by_contents(path: Path) -> Reader | None:
    with path.open("rb") as file:
        start = file.read(200)
        # Where HDF5 may begin behind a block of a user's.
        later = [file.seek(place) and file.read(8) for place in (512, 1024, 2048)]
    if start.startswith(b"version https://git-lfs"):
        raise WeightsFileError(f"{path} is not the weights but a pointer to them; fetch them with git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsFileError(f"{path} is not the weights but a web page; download the file itself")
    if b"\x89HDF\r\n\x1a\n" in (start[:8], *later):
        return read_keras
    if start.startswith(b"PK"):
        return _of_archive(path)
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        return read_safetensors
    # A pickle begins with its protocol; maps of MessagePack with their number of entries, of which variables have some.
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5":
        return read_torch
    if start[:1] in {bytes([0x80 + count]) for count in range(1, 16)} | {b"\xde", b"\xdf"}:
        return read_flax
    return None


def _of_archive(path: Path) -> Reader | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return read_keras if "model.weights.h5" in archive.namelist() else read_torch
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return None


def parts_of(index: Path) -> dict[str, str]:
    """Return the file of each array by its name, as an index says.

    Source: the format of huggingface.co/docs, "Serialization", sharded checkpoints.

    Raises:
      WeightsFileError: it is no such index, or names files in other folders.
    """
    if file_size(index) > MAX_INDEX:
        raise WeightsFileError(f"{index} is not an index of weights: it is larger than {MAX_INDEX:,} bytes")
    try:
        parts = json.loads(index.read_bytes())["weight_map"]
        names = {name: file for name, file in parts.items() if Path(file).name == file and file not in ("", "..")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsFileError(f"{index} is not an index of weights: it has no readable weight_map") from error
    if len(names) != len(parts) or not names:
        raise WeightsFileError(f"{index} is refused: it names no files, or files that are not in its folder")
    return names


def read_parts(path: Path) -> dict[str, Any]:
    """Return the arrays of the files that an index names, unread.

    Raises:
      WeightsFileError: a file is not there, damaged, or lacks an array.
    """
    parts = parts_of(path)
    files = sorted(set(parts.values()))
    if any(file.endswith(INDEX) for file in files):
        raise WeightsFileError(f"{path} is refused: it names another index")
    arrays = {file: find_reader(path.parent / file)(path.parent / file) for file in files}
    missing = [name for name, file in parts.items() if name not in arrays[file]]
    if missing:
        raise WeightsFileError(
            f"{path.parent / parts[missing[0]]} lacks the array {quoted(missing[0])}, of which {path.name} says that it"
            " is there; fetch both again"
        )
    return {name: arrays[file][name] for name, file in parts.items()}
