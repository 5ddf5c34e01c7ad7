"""Read the variables that Flax writes as MessagePack (`flax.serialization.to_bytes`, ``msgpack_serialize``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from flax import serialization, traverse_util

from cnnjax.pretrained.arrays import WeightsFileError, check_shape, quoted, shortened

COLLECTIONS = ("params", "batch_stats")


def read_flax(path: Path) -> dict[str, Any]:
    """Return the arrays of ``params`` and ``batch_stats`` by path within their collection; all else is left out.

    Variables within something else, such as the ``ema`` of a serialised state, are a dictionary under its name.

    Raises:
      WeightsFileError: not there, damaged, truncated, or without ``params``.
    """
    try:
        content = serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise WeightsFileError(f"{path} is damaged, truncated or not of Flax: {shortened(str(error))}") from error
    found: dict[str, Any] = {}
    for place, variables in _variables(content):
        for collection in COLLECTIONS:
            found |= {".".join((*place, name)): value for name, value in _arrays(path, variables, collection)}
    if not found:
        raise WeightsFileError(f"{path} holds no 'params'; give a file of Flax variables")
    return found


def _variables(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Return the dictionaries with ``params``, and where they are; none is inside another's collections."""
    if not isinstance(content, dict):
        return
    there = isinstance(content.get("params"), dict)
    if there:
        yield place, content
    for key, item in content.items():
        if not there or key not in COLLECTIONS:
            yield from _variables(item, (*place, str(key)))


def _arrays(path: Path, variables: Mapping[str, Any], collection: str) -> Iterator[tuple[str, np.ndarray]]:
    tree = variables.get(collection, {})
    if not isinstance(tree, dict):
        raise WeightsFileError(f"{path} holds something other than a dictionary under {collection!r}")
    for parts, value in traverse_util.flatten_dict(tree).items():
        name = "/".join(map(str, parts))
        if not isinstance(value, np.ndarray):
            raise WeightsFileError(f"{path} holds something other than an array under {quoted(name)}")
        check_shape(path, name, value.shape)
        yield name, value
