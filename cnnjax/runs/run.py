"""A run of ours as a network that is ready to be used."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.buckets import fetch
from cnnjax.data.preprocess import normalise
from cnnjax.models import create_model, model_info
from cnnjax.nn.building import pad_to_legal_size
from cnnjax.places import local_path
from cnnjax.runs.images import ImageFormat, check_pixels, run_image_format
from cnnjax.runs.reader import WeightsFileError, find_checkpoint, read_run, run_config

# Tasks with a number or more per image; the networks of others return an image for each.
LABELLING = frozenset({"classification", "multilabel", "regression"})


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with all that its use needs.

    >>> run = cnnjax.load_run("runs/lenet5-digits")  # doctest: +SKIP
    >>> run.label_names[run.logits(images)[0].argmax()]  # doctest: +SKIP
    '7'

    Attributes:
      model: the network.
      variables: of the checkpoint; the moving averages where the run kept any.
      config: what the run was asked to be: the flags of its script by name.
      label_names: one per class or output; empty where the network returns images without labels.
      preprocessing: size of the images, and what they are normalised with.
      step: of the checkpoint.
      task: "classification", "multilabel" or "regression"; "segmentation" or "restoration" where the network maps
        images to images.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]
    label_names: tuple[str, ...]
    preprocessing: ImageFormat
    step: int
    task: str = "classification"

    def outputs(self, images: Any) -> jax.Array:
        """Return what the network makes of images.

        Networks that map images to images take other sizes than they were trained with, too, if they are convolutions
        throughout: images are mirrored at the right and below up to a legal size, and the result is cropped.

        Args:
          images: uint8[batch, height, width, channels]; grey ones become coloured for a network that takes colours.
        Returns:
          float32[batch, classes or outputs], or [batch, height, width, channels or classes].
        Raises:
          ValueError: images of another size or with other channels than the network takes; see `check_pixels`.
        """
        if self.task in LABELLING:
            found: Any = self.model.apply(self.variables, self.preprocessing.normalise(images))
            return found
        check_pixels(images)
        height, width = images.shape[1:3]
        legal = {name: getattr(self.model, name, 1) for name in ("min_size", "size_step")}
        pixels = normalise(images, self.preprocessing.mean, self.preprocessing.std)
        maps: Any = self.model.apply(self.variables, pad_to_legal_size(pixels, **legal))
        return maps[:, :height, :width]

    def used_by(self, workdir: str | os.PathLike[str]) -> str:
        """Return what uses a run whose network returns images, in words.

        Args:
          workdir: its folder.
        """
        command = f"apply --weights {workdir} --image IMAGE"
        return {
            "dncnn": f"`python experiments/denoise.py {command}` denoises images with it",
            "unet": f"`python experiments/segment.py {command}` segments images with it",
            "autoencoder": f"`python experiments/autoencode.py` drew what it makes of images in {workdir}",
        }.get(model_info(self.config["model"]).family, "cnnjax.load_run reads it")

    def logits(self, images: Any) -> jax.Array:
        """Return float32[batch, classes or outputs] of uint8[batch, height, width, channels].

        Raises:
          ValueError: see `outputs`; the network is no classifier.
        """
        if self.task not in LABELLING:
            raise ValueError(f"{self.config['model']} is a network for {self.task} and has no logits; take outputs")
        return self.outputs(images)


def load_run(workdir: str | os.PathLike[str], which: str | int = "best") -> Run:
    """Read a run of any of our scripts, made on this or another machine, with any number of devices.

    Args:
      workdir: its folder, or that in a bucket (gs://...).
      which: "best", the checkpoint with the best test measure; "last"; or a step there is a checkpoint of.
    Raises:
      WeightsFileError (a ValueError): there is no such run or checkpoint, it is damaged, or a newer version wrote it.
    """
    if isinstance(which, str) and which not in ("best", "last"):
        raise ValueError(f"which must be 'best', 'last' or a step, got {which!r}")
    path = fetch(local_path(workdir, "workdir", buckets=True))
    config = run_config(path)
    if config is None:
        raise WeightsFileError(f"{path} is no run: it has no config.json; give the --workdir of experiments/train.py")
    checkpoint = find_checkpoint(path, which)
    asked, resolved = config["config"], config["resolved"]
    image_format = run_image_format(config)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in resolved["fields"].items()}
    return Run(
        model=create_model(asked["model"], **(fields | {"dtype": jnp.dtype(asked["dtype"])})),
        variables=jax.tree.map(jnp.asarray, read_run(checkpoint)),
        config=asked,
        label_names=image_format.label_names or (),
        preprocessing=image_format,
        step=int(checkpoint.name),
        task=resolved["task"],
    )
