"""Read our own runs: a workdir, its checkpoints, or one of them.

What a run leaves has the number of its format in ``config.json`` and in each checkpoint. It is raised when something
changes that older versions would misread; every format so far can be read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnnjax.models import list_models, model_info
from cnnjax.pretrained.arrays import WeightsFileError

# 0, of files without a number: before it was written down. 1: the state may have ``nonfinite``.
FORMAT = 1


def run_config(path: Path) -> dict[str, Any] | None:
    """Return ``config.json`` of the run that a path is, or is the checkpoints of; None if it is of none."""
    return _read_config(path, ("mean", "std", "image_size", "label_names"))


def run_image_size(path: Path) -> int | None:
    """Return the height of the images that a run was trained with, pixels; None if it was noted nowhere.

    Args:
      path: see `run_config`; runs that map images to images will do too.
    """
    config = _read_config(path, ())
    if config is None:
        return None
    size = config["resolved"].get("image_size", config["resolved"].get("image_shape", (None,))[0])
    return None if size is None else int(size)


def _read_config(path: Path, needed: Sequence[str]) -> dict[str, Any] | None:
    for folder in (path, *path.parents[:2]):
        file = folder / "config.json"
        if path.is_dir() and file.is_file():
            try:
                config = json.loads(file.read_text())
                _check_format(file, config)
                if needed:
                    _check_task(folder, config["config"]["model"], config["resolved"])
                _ = config["resolved"].keys(), [config["resolved"][name] for name in needed]
            except WeightsFileError:
                raise
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise WeightsFileError(f"{file} is not what a run writes ({error}); restore it") from error
            return config
    return None


def _check_task(run: Path, model: str, resolved: dict[str, Any]) -> None:
    """Refuse runs of networks that map images to images, whose config.json says nothing of classes, mean and size."""
    if "mean" in resolved or model not in list_models():
        return
    info = model_info(model)
    if info.task == "classification":
        return
    use = {
        "dncnn": f"denoise images with it by `python experiments/denoise.py apply --weights {run} --image IMAGE`",
        "unet": f"segment images with it by `python experiments/segment.py apply --weights {run} --image IMAGE`",
        "autoencoder": f"what it makes of images is in {run}, as `python experiments/autoencode.py` drew it",
    }
    raise WeightsFileError(
        f"{run} is a run of {model}, a network for {info.task}, and not of experiments/train.py"
        + (f"; {use[info.family]}" if info.family in use else "")
    )


def _check_format(file: Path, description: dict[str, Any]) -> None:
    if (found := description.get("format", 0)) > FORMAT:
        raise WeightsFileError(
            f"{file} has format {found}, and this version of cnnjax reads formats up to {FORMAT}; install a newer one"
        )


def find_checkpoint(path: Path, which: str | int = "last") -> Path:
    """Return the folder of a checkpoint.

    Args:
      path: a workdir; its folder ``checkpoints``; or a checkpoint in it, which is returned.
      which: "last"; "best", by the test metric that the run goes by; or a step.
    Raises:
      WeightsFileError: there is no such checkpoint.
    """
    if (path / "state").is_dir():
        return path
    steps = _steps(path / "checkpoints") or _steps(path)
    if not steps:
        raise WeightsFileError(f"{path} holds no checkpoint; give a workdir, its folder checkpoints, or one of these")
    newest = steps[max(steps)]
    if which == "last":
        return newest
    number = which
    if which == "best":
        number = _description(newest)["run"].get("best_step")
        if number is None:
            raise WeightsFileError(f"{path} was not tested yet, so no checkpoint is its best; take the last one")
    if number not in steps:
        raise WeightsFileError(
            f"{path} has no checkpoint of step {number} ({which!r} was asked for); there are {sorted(steps)}"
        )
    return steps[int(number)]


def _description(step: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    file = step / "run" / "metadata"
    try:
        description = json.loads(file.read_text())
        _ = description["run"].keys(), description["checksums"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsFileError(f"checkpoint {step} is damaged: {' '.join(str(error).split())[:200]}") from error
    _check_format(file, description)
    return description


def read_run(path: Path) -> dict[str, Any]:
    """Return the variables of a run: ``params`` and ``batch_stats`` as nested dictionaries of NumPy arrays.

    They are the moving averages where the run kept any, as these are what was evaluated.

    Args:
      path: a workdir, whose newest checkpoint is taken; its folder ``checkpoints``; or a checkpoint in it.
    Raises:
      WeightsFileError: no checkpoint there, a damaged one, or one of a newer version.
    """
    step = find_checkpoint(path)
    checksums = _description(step)["checksums"]
    try:
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


def _steps(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step."""
    if not folder.is_dir():
        return {}
    return {int(step.name): step for step in folder.iterdir() if step.name.isdecimal() and (step / "state").is_dir()}


def _read(path: Path, name: str, driver: str) -> np.ndarray:
    """Return one array of those that Orbax wrote to ``path``."""
    # Comes with Orbax, takes a while to import, and ``import cnnjax`` is to stay light.
    import tensorstore

    spec = {
        "driver": driver,
        "kvstore": {"driver": "ocdbt", "base": f"file://{path.absolute()}/", "path": f"{name.replace('/', '.')}/"},
    }
    return tensorstore.open(spec, read=True).result().read().result()
