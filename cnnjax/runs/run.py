"""A run of ours as a network that is ready to be used."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.buckets import fetch
from cnnjax.models import create_model, model_info
from cnnjax.places import local_path
from cnnjax.runs.images import run_image_format
from cnnjax.runs.network import LABELLING, LoadedNetwork
from cnnjax.runs.reader import WeightsFileError, find_checkpoint, read_run, run_config


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run(LoadedNetwork):
    """A trained network of ours with all that its use needs.

    >>> run = cnnjax.load_run("runs/lenet5-digits")  # doctest: +SKIP
    >>> run.label_names[run.logits(images)[0].argmax()]  # doctest: +SKIP
    '7'

    Attributes:
      variables: of the checkpoint; the moving averages where the run kept any.
      config: what the run was asked to be: the flags of its script by name.
      step: of the checkpoint.
    """

    config: dict[str, Any]
    step: int

    @property
    def title(self) -> str:
        """What to call it in pictures and reports."""
        return f"{self.name}, {self.config['dataset']}"

    def _used_by(self) -> str:
        if self.task in LABELLING:
            return super()._used_by()
        command = f"apply --weights {self.origin} --image IMAGE"
        return {
            "dncnn": f"`python experiments/denoise.py {command}` denoises images with it",
            "unet": f"`python experiments/segment.py {command}` segments images with it",
            "autoencoder": f"`python experiments/autoencode.py` drew what it makes of images in {self.origin}",
        }.get(model_info(self.name).family, "cnnjax.load_run reads it")


def load_run(workdir: str | os.PathLike[str], which: str | int = "best") -> Run:
    """Read a run of one of the scripts, made on this or another machine, with any number of devices.

    Args:
      workdir: its folder, or that in a bucket (gs://...).
      which: "best", the checkpoint with the best test measure; "last"; or a step that has a checkpoint.
    Raises:
      WeightsFileError (a ValueError): there is no such run or checkpoint, it is damaged, or a newer version wrote it.
    """
    if isinstance(which, str) and which not in ("best", "last"):
        raise ValueError(f"which must be 'best', 'last' or a step, got {which!r}")
    path = fetch(local_path(workdir, "workdir", buckets=True))
    config = run_config(path)
    if config is None:
        raise WeightsFileError(
            f"{path} is not a run: it has no config.json; give the --workdir of experiments/train.py"
        )
    checkpoint = find_checkpoint(path, which)
    asked, resolved = config["config"], config["resolved"]
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in resolved["fields"].items()}
    step = int(checkpoint.name)
    return Run(
        name=asked["model"],
        model=create_model(asked["model"], **(fields | {"dtype": jnp.dtype(asked["dtype"])})),
        variables=jax.tree.map(jnp.asarray, read_run(checkpoint)),
        config=asked,
        label_names=tuple(resolved["label_names"] or ()),
        preprocessing=run_image_format(config),
        step=step,
        task=resolved["task"],
        origin=str(workdir),
        # Step 0 is before the first one.
        trained=step > 0,
    )
