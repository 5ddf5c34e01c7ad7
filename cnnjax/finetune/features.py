"""Features of a data set on disk: a network runs once, and whatever learns from them needs it no more."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.finetune.paths import leaves_by_path
from cnnjax.writing import write_json, write_whole

# Examples a file: what a killed process computes again at most.
SHARD = 512

Compute = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def hash_variables(variables: Any) -> str:
    """Return a hash of every path, shape, type and bit of a tree of arrays: 64 hexadecimal digits (SHA-256).

    >>> hash_variables({"params": {"kernel": np.zeros(2, np.float32)}})[:12]
    'dc4f8eaedae9'
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves_by_path(jax.device_get(variables)).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class FeatureCache:
    """A folder of features, each example's computed once.

    Files are ``features.json``, which says whose features these are, and ``<split>-<number>.npz`` with ``features`` and
    ``labels`` of `SHARD` examples each. A file is written whole or not at all, so that a process may be killed at any
    time; a damaged one is computed again.

    Args:
      folder: made if it is not there.
      identity: what decides the features, as JSON holds it: the network, `hash_variables` of its weights, the layer,
        the data set and its preparation.

    Attributes:
      computed: number of examples whose features had to be computed.
      notices: what a user should know, a sentence each.

    Raises:
      ValueError: the folder holds features of another identity (what differs is listed), or files of something else.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.computed = 0
        self.notices: list[str] = []
        ours = json.loads(json.dumps(dict(identity)))
        file = self.folder / "features.json"
        if file.exists():
            try:
                saved = dict(json.loads(file.read_text()))
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"{file} cannot be read ({error}); delete {self.folder} to start again") from error
            if saved != ours:
                lines = [
                    f"  {key}: {saved.get(key)!r} there, {ours.get(key)!r} now"
                    for key in sorted(saved.keys() | ours.keys())
                    if saved.get(key) != ours.get(key)
                ]
                raise ValueError(
                    "\n".join([f"{self.folder} holds features of something else:", *lines, "give another folder"])
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if stray := sorted(path.name for path in self.folder.glob("*.npz")):
            raise ValueError(f"{self.folder} holds {stray[0]} but no features.json; delete it or give another folder")
        write_json(file, ours)

    def split(self, name: str, num_examples: int, compute: Compute) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of a split, from disk where they are there.

        Args:
          name: of the split, such as "train".
          num_examples: in the split.
          compute: (start, stop) -> (features float[stop - start, ...], labels int[stop - start]) of these examples.
        Returns:
          (features, labels) of all examples, in order.
        """
        shards = []
        for start in range(0, num_examples, SHARD):
            stop = min(start + SHARD, num_examples)
            file = self.folder / f"{name}-{start // SHARD:05d}.npz"
            shard = self._read(file, stop - start)
            if shard is None:
                features, labels = compute(start, stop)
                if len(features) != stop - start or len(labels) != stop - start:
                    raise ValueError(
                        f"compute({start}, {stop}) must return {stop - start} features and labels, got "
                        f"{len(features)} and {len(labels)}"
                    )
                write_whole(file, partial(np.savez, features=features, labels=labels))
                self.computed += stop - start
                shard = features, labels
            shards.append(shard)
        return np.concatenate([shard[0] for shard in shards]), np.concatenate([shard[1] for shard in shards])

    def _read(self, file: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the arrays of a file; None if it is not there, or damaged."""
        if not file.exists():
            return None
        try:
            with file.open("rb") as stream, np.load(stream) as arrays:
                features, labels = arrays["features"], arrays["labels"]
            if not len(features) == len(labels) == count:
                raise ValueError(f"it has {len(features)} examples, not {count}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.notices.append(f"{file} is damaged ({error}); its features are computed again")
            return None
        return features, labels
