"""A run of ours as a network that is ready to be used."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models import create_model
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.load import ImageFormat, run_image_format
from cnnjax.pretrained.run_files import find_checkpoint, read_run, run_config


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with all that its use needs.

    >>> run = cnnjax.load_run("runs/lenet5-digits")  # doctest: +SKIP
    >>> run.label_names[run.logits(images)[0].argmax()]  # doctest: +SKIP
    '7'

    Attributes:
      model: the network.
      variables: of the checkpoint; the moving averages where the run kept any.
      config: what the run was asked to be: the flags of ``experiments/train.py`` by name.
      label_names: one a class, or an output.
      preprocessing: size of the images, and what they are normalised with.
      step: of the checkpoint.
      task: "classification", "multilabel" or "regression".
    """

    model: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]
    label_names: tuple[str, ...]
    preprocessing: ImageFormat
    step: int
    task: str = "classification"

    def logits(self, images: Any) -> jax.Array:
        """Return float32[batch, classes or outputs] of uint8[batch, height, width, channels]."""
        logits: Any = self.model.apply(self.variables, self.preprocessing.normalise(images))
        return logits


def load_run(workdir: str | os.PathLike[str], which: str | int = "best") -> Run:
    """Read a run of ``experiments/train.py``, made on this or another machine, with any number of devices.

    Args:
      workdir: its folder.
      which: "best", the checkpoint with the best test accuracy; "last"; or a step there is a checkpoint of.
    Raises:
      WeightsFileError (a ValueError): there is no such run or checkpoint, it is damaged, a newer version wrote it, or
        it is of a network that maps images to images (the message says what uses it).
    """
    if isinstance(which, str) and which not in ("best", "last"):
        raise ValueError(f"which must be 'best', 'last' or a step, got {which!r}")
    path = Path(workdir)
    config = run_config(path)
    if config is None:
        raise WeightsFileError(f"{path} is no run: it has no config.json; give the --workdir of experiments/train.py")
    checkpoint = find_checkpoint(path, which)
    asked = config["config"]
    image_format = run_image_format(config)
    names = image_format.label_names or ()
    # The oldest runs were classifiers and could set no fields.
    resolved = {"task": "classification", "num_classes": len(names), "fields": {}} | config["resolved"]
    fields = resolved["fields"] | {"num_classes": resolved["num_classes"], "dtype": jnp.dtype(asked["dtype"])}
    return Run(
        model=create_model(asked["model"], **fields),
        variables=jax.tree.map(jnp.asarray, read_run(checkpoint)),
        config=asked,
        label_names=names,
        preprocessing=image_format,
        step=int(checkpoint.name),
        task=resolved["task"],
    )
