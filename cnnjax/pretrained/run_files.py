"""Read the weights of our own runs: a workdir, its checkpoints, or one of them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnnjax.pretrained.arrays import WeightsFileError


def run_config(path: Path) -> dict[str, Any] | None:
    """Return ``config.json`` of the run that a path is, or is the checkpoints of; None if it is of none."""
    for folder in (path, *path.parents[:2]):
        file = folder / "config.json"
        if path.is_dir() and file.is_file():
            try:
                config = json.loads(file.read_text())
                _ = [config["resolved"][name] for name in ("mean", "std", "image_size", "label_names")]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise WeightsFileError(f"{file} is not what a run writes ({error}); restore it") from error
            return config
    return None


def read_run(path: Path) -> dict[str, Any]:
    """Return the variables of a run: ``params`` and ``batch_stats`` as nested dictionaries of NumPy arrays.

    They are the moving averages where the run kept any, as these are what was evaluated.

    Args:
      path: a workdir, whose newest checkpoint is taken; its folder ``checkpoints``; or a checkpoint in it.
    Raises:
      WeightsFileError: no checkpoint there, or a damaged one.
    """
    step = _newest(path)
    try:
        checksums = json.loads((step / "run" / "metadata").read_text())["checksums"]
        zarr3 = json.loads((step / "state" / "_METADATA").read_text()).get("use_zarr3", False)
        prefix = "ema/" if any(name.startswith("ema/") for name in checksums) else ""
        names = [name for name in checksums if name.startswith((f"{prefix}params/", f"{prefix}batch_stats/"))]
        variables = {}
        for name in names:
            leaf = _read(step / "state", name, "zarr3" if zarr3 else "zarr")
            if zlib.crc32(np.ascontiguousarray(leaf).tobytes()) != checksums[name]:
                raise ValueError(f"array {name} is not what was written")
            variables[name.removeprefix(prefix)] = leaf
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsFileError(f"checkpoint {step} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not variables:
        raise WeightsFileError(f"checkpoint {step} holds no parameters")
    return traverse_util.unflatten_dict(variables, sep="/")


def _newest(path: Path) -> Path:
    """Return the folder of the newest checkpoint at ``path``."""
    if (path / "state").is_dir():
        return path
    for folder in (path / "checkpoints", path):
        if steps := _steps(folder):
            return max(steps, key=lambda step: int(step.name))
    raise WeightsFileError(f"{path} holds no checkpoint; give a workdir, its folder checkpoints, or one of these")


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [step for step in folder.iterdir() if step.name.isdecimal() and (step / "state").is_dir()]


def _read(path: Path, name: str, driver: str) -> np.ndarray:
    """Return one array of those that Orbax wrote to ``path``."""
    # Comes with Orbax, takes a while to import, and ``import cnnjax`` is to stay light.
    import tensorstore

    spec = {
        "driver": driver,
        "kvstore": {"driver": "ocdbt", "base": f"file://{path.absolute()}/", "path": f"{name.replace('/', '.')}/"},
    }
    return tensorstore.open(spec, read=True).result().read().result()
