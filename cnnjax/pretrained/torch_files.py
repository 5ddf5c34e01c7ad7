"""Read ``.pth`` and ``.pt`` files without PyTorch and without executing anything that they say.

What their pickles say is followed by `cnnjax.pretrained.pickle_machine`; here is where the numbers lie in a file.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.pretrained.arrays import (
    FileArray,
    WeightsFileError,
    check_shape,
    file_size,
    quoted,
    shortened,
    stored_offset,
)
from cnnjax.pretrained.pickle_machine import Storage, Tensor, Unread, run_pickle

# What a file before PyTorch 1.6 starts with, and the version of its format.
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Entries of all dictionaries together, which may hold one another more than once.
MAX_ENTRIES = 1_000_000


def read_torch(path: Path) -> dict[str, Any]:
    """Return the arrays that ``torch.save`` wrote, unread: nested dictionaries as in the file, without all else.

    Files of all versions of PyTorch are read. Numbers, texts and plain objects
    (`cnnjax.pretrained.pickle_machine.HARMLESS`) are left out.

    Raises:
      WeightsFileError: the file is damaged or truncated; it asks for anything but tensors, containers and plain
        objects, such as a whole model (save ``model.state_dict()``); or it holds no state dict.
    """
    file_size(path)
    if zipfile.is_zipfile(path):
        value, locate = _read_archive(path)
    else:
        value, locate = _read_legacy(path)
    if not isinstance(value, dict):
        raise WeightsFileError(f"{path} holds no state dict but {_describe(value)}; save model.state_dict()")
    found = _tree(path, value, locate)
    if not found:
        if any(isinstance(item, dict) for item in value.values()) or not value:
            raise WeightsFileError(f"{path} holds a dictionary without tensors")
        keys = shortened(", ".join(map(str, list(value)[:10])))
        raise WeightsFileError(f"{path} holds no state dict; its keys are {keys}")
    return found


# Where a storage lies: offset of its bytes, their checksum if known, and the order of bytes, as NumPy writes it.
Locate = Callable[[Storage], tuple[int, int | None, str]]


def _read_archive(path: Path) -> tuple[Any, Locate]:
    """Read the format since PyTorch 1.6: a zip archive with a pickle and one uncompressed entry a storage."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if any(name.endswith("/constants.pkl") for name in entries):
                raise WeightsFileError(f"{path} holds a TorchScript program; save the model's state_dict() instead")
            pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
            # What is stored as it is cannot be larger than the file.
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
            if len(pickles) != 1 or not plain:
                raise WeightsFileError(f"{path} is a zip archive, but none that torch.save wrote")
            root = pickles[0].removesuffix("data.pkl")
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
            with archive.open(pickles[0]) as file:
                value = run_pickle(path, file)
    except WeightsFileError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise WeightsFileError(f"{path} is damaged or truncated: {error}; fetch it again") from error

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        entry = entries.get(f"{root}data/{storage.key}")
        expected = storage.size * storage.dtype.itemsize
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != expected:
            raise WeightsFileError(
                f"{path} is damaged: storage {quoted(storage.key)} of {expected:,} bytes is not there"
            )
        return stored_offset(path, entry), entry.CRC, ">" if order == b"big" else "<"

    return value, locate


def _read_legacy(path: Path) -> tuple[Any, Locate]:
    """Read the format before PyTorch 1.6: five pickles one after the other, then the storages."""
    places: dict[str, tuple[int, int]] = {}
    size = file_size(path)
    if size == 0:
        raise WeightsFileError(f"{path} is empty; fetch it again")
    # A mapped file gives no more bytes than it has, whatever length is asked for.
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file:
        if run_pickle(path, file) != MAGIC:
            raise WeightsFileError(f"{path} is not a file that torch.save wrote")
        protocol, system, value = run_pickle(path, file), run_pickle(path, file), run_pickle(path, file)
        keys = run_pickle(path, file)
        if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise WeightsFileError(f"{path} is not a file that torch.save wrote, or damaged")
        order = "<" if system.get("little_endian", True) else ">"
        storages = {storage.key: storage for storage in _storages(value)}
        for key in keys:
            count = int.from_bytes(file.read(8), "little" if order == "<" else "big", signed=True)
            storage = storages.get(key)
            if storage is None or count != storage.size:
                raise WeightsFileError(f"{path} is damaged or truncated: storage {quoted(key)} has {count:,} elements")
            places[key] = file.tell(), count
            if count * storage.dtype.itemsize > size - file.tell():
                raise WeightsFileError(f"{path} has {size:,} bytes and is truncated; download it again")
            file.seek(count * storage.dtype.itemsize, 1)

    def locate(storage: Storage) -> tuple[int, int | None, str]:
        if storage.key not in places:
            raise WeightsFileError(f"{path} is damaged: storage {quoted(storage.key)} is not there")
        return places[storage.key][0], None, order

    return value, locate


def _storages(value: Any) -> Iterator[Storage]:
    """Return the storages of all tensors in nested containers."""
    seen: set[int] = set()
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Tensor):
            yield item.storage
        elif isinstance(item, dict | list | tuple | Unread) and id(item) not in seen:
            seen.add(id(item))
            inner = item.parts if isinstance(item, Unread) else item
            rest.extend(item.values() if isinstance(item, dict) else inner)


def _file_array(path: Path, name: str, tensor: Tensor, locate: Locate) -> FileArray:
    storage = tensor.storage
    check_shape(path, name, tensor.shape)
    # The last element that the view reaches, and as many elements as the storage has at most: no view repeats them.
    last = tensor.offset + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    count = int(np.prod(tensor.shape, dtype=object))
    if count > storage.size or (count and last >= storage.size):
        raise WeightsFileError(
            f"{path} is damaged: tensor {quoted(name)} of shape {tensor.shape} reaches out of its storage"
        )
    offset, checksum, order = locate(storage)
    dtype = storage.dtype.newbyteorder(">") if order == ">" and storage.dtype.itemsize > 1 else storage.dtype
    return FileArray(path, offset, tensor.shape, dtype, tensor.offset, tensor.strides, storage.size, checksum)


def _tree(path: Path, value: dict[Any, Any], locate: Locate) -> dict[str, Any]:
    """Return the tensors in nested dictionaries; those without any are left out."""
    root: dict[str, Any] = {}
    rest: list[tuple[dict[Any, Any], tuple[str, ...]]] = [(value, ())]
    entries = 0
    while rest:
        container, place = rest.pop()
        for key, item in container.items():
            entries += 1
            if entries > MAX_ENTRIES:
                raise WeightsFileError(f"{path} is refused: its description of the weights is too long")
            if isinstance(item, dict):
                rest.append((item, (*place, str(key))))
            elif isinstance(item, Tensor):
                inner = root
                for part in place:
                    inner = inner.setdefault(part, {})
                inner[str(key)] = _file_array(path, str(key), item, locate)
    return root


def _describe(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
