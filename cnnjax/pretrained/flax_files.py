"""Read the variables that Flax writes as MessagePack (`flax.serialization.msgpack_serialize`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from flax import serialization, traverse_util

from cnnjax.pretrained.arrays import WeightsFileError


def read_flax(path: Path) -> dict[str, Any]:
    """Return the arrays of ``params`` and ``batch_stats`` by path within their collection; others are left out.

    Raises:
      WeightsFileError: not there, damaged, cut off, or without ``params``.
    """
    try:
        variables = serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise WeightsFileError(
            f"{path} is damaged, cut off or not of Flax: {' '.join(str(error).split())[:200]}"
        ) from error
    if not isinstance(variables, dict) or not isinstance(variables.get("params"), dict):
        raise WeightsFileError(f"{path} holds no 'params'; give a file of Flax variables")
    arrays: dict[str, Any] = {}
    for collection in ("params", "batch_stats"):
        tree = variables.get(collection, {})
        if not isinstance(tree, dict):
            raise WeightsFileError(f"{path} holds something else than a dictionary under {collection!r}")
        arrays |= traverse_util.flatten_dict(tree, sep="/")
    bad = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if bad:
        raise WeightsFileError(f"{path} holds something else than an array under {bad[0]!r}")
    return arrays
