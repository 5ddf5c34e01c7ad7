"""Read our own runs: a workdir, its checkpoints, or one of them.

What a run leaves has the number of its format in ``config.json`` and in each checkpoint. It is raised when something
changes that older versions would misread; every format so far can be read.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnnjax.models import model_info

# 0, of files without a number: before it was written down. 1: the state may have ``nonfinite``.
FORMAT = 1


class WeightsFileError(ValueError):
    """A file of weights that is damaged, of another kind, or not to be trusted; the message names it."""


def run_config(path: Path) -> dict[str, Any] | None:
    """Return ``config.json`` of the run that a path is, or is the checkpoints of; None if it is of none.

    Runs of older versions are brought up to date: ``resolved`` has at least ``task``, ``fields`` (of the network, as
    `cnnjax.create_model` takes them), ``image_size``, ``mean``, ``std`` and ``label_names``.

    Raises:
      WeightsFileError: the file is not what a run writes, or of a newer version.
    """
    for folder in (path, *path.parents[:2]):
        file = folder / "config.json"
        if path.is_dir() and file.is_file():
            try:
                config = json.loads(file.read_text())
                _check_format(file, config)
                return config | {"resolved": _with_facts(config["config"], config["resolved"])}
            except WeightsFileError:
                raise
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise WeightsFileError(f"{file} is not what a run writes ({error}); restore it") from error
    return None


def _with_facts(asked: dict[str, Any], resolved: dict[str, Any]) -> dict[str, Any]:
    """Return ``resolved`` with what runs of older versions did not note."""
    info = model_info(asked["model"])
    if "mean" in resolved:
        names = resolved["label_names"]
        # The oldest runs were of one class per image, and could set no fields.
        old = {"task": info.task, "num_classes": len(names), "image_size": resolved["image_size"]}
        known = old | resolved
        return known | {"fields": {"num_classes": known["num_classes"]} | resolved.get("fields", {})}
    # Networks that map images to images got pixels in [0, 1].
    *size, channels = resolved["image_shape"]
    fields: dict[str, Any] = {}
    if info.family == "unet":
        fields = {"num_classes": len(resolved["label_names"]), "features": asked["features"], "dropout_rate": 0.0}
    elif asked["model"] == "conv_autoencoder":
        fields = {"latent_features": asked["latent"]}
    facts = {"task": info.task, "fields": fields, "image_size": size, "label_names": None}
    return facts | {"mean": [0.0] * channels, "std": [1.0] * channels} | resolved


def run_image_size(path: Path) -> int | None:
    """Return the height of the images that a run was trained with, pixels; None if there is no ``config.json``.

    Args:
      path: see `run_config`.
    """
    config = run_config(path)
    if config is None:
        return None
    size = config["resolved"]["image_size"]
    return int(size if isinstance(size, int) else size[0])


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

    # As fields, since in a URL some characters of paths mean something else.
    base = {"driver": "file", "path": f"{path.absolute()}/"}
    spec = {
        "driver": driver,
        "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name.replace('/', '.')}/"},
    }
    return tensorstore.open(spec, read=True).result().read().result()
