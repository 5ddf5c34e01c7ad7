"""A network with its weights and all that its use needs, wherever these are from."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax.data.preprocess import normalise
from cnnjax.nn.building import pad_to_legal_size
from cnnjax.runs.images import ImageFormat, check_pixels

# Tasks with a number or more per image; the networks of others return an image for each.
LABELLING = frozenset({"classification", "multilabel", "regression"})


class Prediction(NamedTuple):
    """A class that an image may show.

    Attributes:
      label: its name.
      probability: from 0 to 1.
    """

    label: str
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedNetwork:
    """A network with its weights, what they expect of images, and what their outputs mean.

    `cnnjax.load_run` returns one of a run of ours, `cnnjax.pretrained.from_source` of published weights too.

    >>> network = cnnjax.pretrained.from_source("torchvision://resnet50/IMAGENET1K_V2")  # doctest: +SKIP
    >>> network.classify("cat.jpg", top=1)  # doctest: +SKIP
    [Prediction(label=..., probability=...)]

    Attributes:
      name: of the variant, see `cnnjax.list_models`.
      model: the network.
      variables: its variables.
      label_names: one per class or output; empty where the network returns images without labels.
      preprocessing: size of the images, how they are resized, and what they are normalised with.
      task: "classification", "multilabel" or "regression"; "segmentation" or "restoration" where the network maps
        images to images.
      origin: where the weights are from: a source or a folder.
      licence: of the weights, where their publisher says; a published network without one has none that is known.
      trained: False if the weights were drawn.
    """

    name: str
    model: nn.Module
    variables: dict[str, Any]
    label_names: tuple[str, ...]
    preprocessing: ImageFormat
    task: str = "classification"
    origin: str
    licence: str | None = None
    trained: bool = True

    @property
    def title(self) -> str:
        """What to call it in pictures and reports."""
        return self.name

    def outputs(self, images: Any) -> jax.Array:
        """Return what the network makes of images, compiled once for each shape.

        Networks that map images to images take other sizes than they were trained with, too, if they are convolutions
        throughout: images are mirrored at the right and below up to a legal size, and the result is cropped.

        Args:
          images: uint8[batch, height, width, channels]; grey ones become coloured for a network that takes colours.
        Returns:
          float32[batch, classes or outputs], or [batch, height, width, channels or classes].
        Raises:
          ValueError: images of another size or with other channels than the network takes; see `check_pixels`.
        """
        check_pixels(images)
        return self._compiled(self.variables, images)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, Any], jax.Array]:
        return jax.jit(self.apply)

    def apply(self, variables: Any, images: Any) -> jax.Array:
        """Return `outputs` for other variables, not compiled."""
        if self.task in LABELLING:
            found: Any = self.model.apply(variables, self.preprocessing.normalise(images))
            return found
        height, width = images.shape[1:3]
        legal = {name: getattr(self.model, name, 1) for name in ("min_size", "size_step")}
        expected = self.preprocessing
        pixels = normalise(images, expected.mean, expected.std, expected.channel_order)
        maps: Any = self.model.apply(variables, pad_to_legal_size(pixels, **legal))
        return maps[:, :height, :width]

    def logits(self, images: Any) -> jax.Array:
        """Return float32[batch, classes or outputs] of uint8[batch, height, width, channels].

        Raises:
          ValueError: see `outputs`; the network is no classifier.
        """
        if self.task not in LABELLING:
            raise ValueError(f"{self.name} is a network for {self.task} and has no logits; take outputs")
        return self.outputs(images)

    def classify(self, image: str | os.PathLike[str] | np.ndarray, top: int = 5) -> list[Prediction]:
        """Return the most likely classes of one image, the first first.

        Args:
          image: a file, or uint8[height, width, 1 or 3] of any size; prepared as the network was tested with.
          top: how many classes.
        Raises:
          ValueError: the network does not tell one class per image; the file is no image; ``top`` is below 1.
          OSError: the file cannot be read.
        """
        self.require_task("classification")
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        # Reading images takes Pillow, which those who only normalise do not need.
        from cnnjax.data.decode import read_image

        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image), len(self.preprocessing.mean))
        probabilities = np.asarray(jax.nn.softmax(self.logits(self.preprocessing.prepare(pixels)[None])[0]))
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.label_names[index], float(probabilities[index])) for index in best]

    def require_task(self, *tasks: str) -> None:
        """Refuse a network for another task.

        Raises:
          ValueError: what it is for, and what uses it.
        """
        if self.task not in tasks:
            raise ValueError(f"{self.origin} was trained for {self.task}; {self._used_by()}")

    def _used_by(self) -> str:
        """Return what uses a network whose task is not asked for, in words."""
        if self.task in LABELLING:
            return (
                f"take a network for {'images with one class each' if self.task == 'multilabel' else 'classification'}"
            )
        return "the method outputs of cnnjax.pretrained.from_source gives what it returns"
