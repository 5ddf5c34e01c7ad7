"""Arrays that stay in their file until they are needed."""

from __future__ import annotations

import dataclasses
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.runs.reader import WeightsFileError as WeightsFileError


@dataclasses.dataclass(frozen=True, slots=True)
class FileArray:
    """An array in a file, read anew by each ``np.asarray``, so that not all weights are in memory twice.

    Attributes:
      path: the file.
      offset: of the first byte of the part that holds the array.
      shape, dtype: of the array.
      start, strides: of the array within the part, in elements; None is a contiguous array.
      size: elements of the part.
      checksum: CRC-32 of the part's bytes; None is not checked.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int = 0
    strides: tuple[int, ...] | None = None
    size: int | None = None
    checksum: int | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read the array."""
        count = int(np.prod(self.shape, dtype=np.int64)) if self.size is None else self.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            part = np.fromfile(file, np.uint8, count * self.dtype.itemsize)
        if part.size != count * self.dtype.itemsize:
            raise WeightsFileError(f"{self.path} ends within an array; it is truncated, download it again")
        if self.checksum is not None and zlib.crc32(part.data) != self.checksum:
            raise WeightsFileError(f"{self.path} is damaged: the checksum of an array is another; fetch it again")
        flat = part.view(self.dtype)
        if self.strides is None:
            array = flat[self.start : self.start + int(np.prod(self.shape, dtype=np.int64))].reshape(self.shape)
        else:
            strides = tuple(step * self.dtype.itemsize for step in self.strides)
            array = np.lib.stride_tricks.as_strided(flat[self.start :], self.shape, strides)
        return array.astype(dtype or self.dtype.newbyteorder("="), copy=False)


# Arrays are smaller, whatever a damaged or hostile file says; NumPy has no more axes than that either.
MAX_ELEMENTS = 2**48
MAX_AXES = 32


def source_path(source: str | os.PathLike[str]) -> Path:
    """Return the path of a file or folder of weights, with ``~`` as the home folder.

    Raises:
      WeightsFileError: an empty path, or no home folder.
    """
    if not os.fspath(source):
        raise WeightsFileError("the source of weights is empty; give a file, a run, or published weights")
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise WeightsFileError(f"{source}: there is no such home folder; give the whole path") from error


def check_shape(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Raise an error for a shape that no array has.

    Raises:
      WeightsFileError: too many axes or elements, or negative ones.
    """
    elements = 1
    for length in shape[: MAX_AXES + 1]:
        elements *= max(length, 1)
        if length < 0 or elements > MAX_ELEMENTS or len(shape) > MAX_AXES:
            raise WeightsFileError(
                f"{path} is damaged: array {quoted(name)} has the shape {shortened(str(list(shape[:9])))}"
            )


def shortened(text: str) -> str:
    """Return a text from a file in one line of at most 200 characters that can be shown."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:2000])
    return line if len(line) <= 200 else f"{line[:197]}..."


def quoted(value: object) -> str:
    """Return a value from a file as Python writes it, `shortened`."""
    return shortened(repr(value))


def file_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
      WeightsFileError: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise WeightsFileError(f"{path} is not a file" if path.exists() else f"there is no file {path}")
    if not os.access(path, os.R_OK):
        raise WeightsFileError(f"{path} cannot be read; change its permissions")
    return path.stat().st_size


def stored_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of an uncompressed entry of a zip archive begin.

    Raises:
      WeightsFileError: the entry is not where the archive's list says.
    """
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\3\4":
        raise WeightsFileError(f"{path} is damaged: its entry {quoted(entry.filename)} is not where it has to be")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    return entry.header_offset + 30 + name_length + extra_length
