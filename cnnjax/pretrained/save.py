"""Write variables to a file that `cnnjax.pretrained.load` and other libraries read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from flax import traverse_util

from cnnjax.pretrained.formats import SUFFIXES
from cnnjax.pretrained.safetensors_files import DTYPES
from cnnjax.writing import write_whole

NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
COLLECTIONS = ("params", "batch_stats")


def save(variables: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write variables, or a state dict, to a safetensors file, which is whole or not there.

    Variables are written under our paths (``stage1/block1/conv1/kernel``), which `load` and `from_state_dict` call
    "cnnjax"; `to_state_dict` gives the names and layouts of other libraries.

        cnnjax.pretrained.save(variables, "network.safetensors")
        variables = cnnjax.pretrained.load("resnet50", "network.safetensors")
        state = cnnjax.pretrained.to_state_dict("resnet50", variables, source="timm")
        cnnjax.pretrained.save(state, "for-timm.safetensors")

    Source: the format's description in github.com/huggingface/safetensors, README.

    Args:
      variables: {"params": ..., "batch_stats": ...} as a network takes them, or arrays by name.
      path: of the file.
    Raises:
      ValueError: no arrays; other collections than these; an array of a type that the format does not have; or a name
        of the file that ends as those of another format do.
      OSError: the file cannot be written; what was there before is untouched.
    """
    if (suffix := Path(path).suffix.lower()) in SUFFIXES and suffix != ".safetensors":
        raise ValueError(f"{path} would be taken for a file of another format than safetensors; end it in .safetensors")
    arrays = flat_arrays(variables)
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    place = 0
    for name, array in arrays.items():
        if not hasattr(array, "dtype"):
            raise ValueError(f"{name} must be an array, got a {type(array).__name__}")
        dtype = np.dtype(array.dtype).newbyteorder("=")
        size = int(np.prod(array.shape)) * dtype.itemsize
        if dtype not in NAMES:
            raise ValueError(f"{name} is of type {dtype}; safetensors files hold {', '.join(map(str, NAMES))}")
        header[name] = {"dtype": NAMES[dtype], "shape": list(array.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    # Arrays begin where the processor likes to read them.
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            ours = np.ascontiguousarray(array)
            file.write(ours.astype(ours.dtype.newbyteorder("<"), copy=False).tobytes())

    write_whole(path, write)


def flat_arrays(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables by path within their collection; arrays by name as they are.

    Raises:
      ValueError: no arrays, or other collections than ``params`` and ``batch_stats``.
    """
    if not isinstance(variables, Mapping):
        raise ValueError(
            "variables must be {'params': ..., 'batch_stats': ...} or arrays by name, got a "
            + type(variables).__name__
            + "; give its variables" * hasattr(variables, "variables")
        )
    nested = {name for name, value in variables.items() if isinstance(value, Mapping)}
    if not variables or (nested and not nested <= set(COLLECTIONS)) or (nested and nested != set(variables)):
        found = ", ".join(variables) or "nothing"
        raise ValueError(f"variables must be {{'params': ..., 'batch_stats': ...}} or arrays by name, got {found}")
    if not nested:
        return dict(variables)
    return {
        path: value
        for collection in COLLECTIONS
        for path, value in traverse_util.flatten_dict(variables.get(collection, {}), sep="/").items()
    }
