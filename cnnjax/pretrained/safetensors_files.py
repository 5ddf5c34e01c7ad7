"""Read ``.safetensors`` files: a length, a JSON header, and the bytes of the arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax.pretrained.arrays import FileArray, WeightsFileError, file_size

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# The format's own limit.
MAX_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, FileArray]:
    """Return the arrays of a file by name, unread.

    Source: the format's description in github.com/huggingface/safetensors, README.

    Raises:
      WeightsFileError: the file is damaged, truncated or not a safetensors file.
    """
    size = file_size(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise WeightsFileError(
                f"{path} is not a safetensors file, or truncated: its header would have {length:,} bytes"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise WeightsFileError(f"{path} is not a safetensors file, or damaged: its header is not JSON") from error
    if not isinstance(header, dict):
        raise WeightsFileError(f"{path} is not a safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    arrays = {}
    end = 8 + length
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        try:
            dtype = np.dtype(DTYPES[entry["dtype"]])
            shape = tuple(int(length) for length in entry["shape"])
            begin, after = (8 + length + int(place) for place in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsFileError(f"{path}: array {name!r} has a description that cannot be read: {entry}") from error
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if begin != end or after - begin != expected or any(length < 0 for length in shape):
            raise WeightsFileError(f"{path} is damaged: the bytes of array {name!r} are not where they have to be")
        arrays[name] = FileArray(path, begin, shape, dtype)
        end = after
    if end != size:
        raise WeightsFileError(f"{path} has {size:,} bytes and should have {end:,}; it is truncated, download it again")
    return arrays


def _begin(entry: Any) -> int:
    try:
        return int(entry["data_offsets"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        return 0
