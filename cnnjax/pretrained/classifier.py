"""A classifier by what a command line says of it: a run of ours, or a variant with the weights of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models import create_model, model_info
from cnnjax.pretrained.classes import imagenet_classes
from cnnjax.pretrained.load import image_format, load
from cnnjax.runs.images import ImageFormat
from cnnjax.runs.run import Run, load_run


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier that is ready to be used.

    Attributes:
      name: to be shown.
      model: the network.
      variables: its variables.
      preprocessing: what its images have to look like.
      label_names: of the classes; their numbers where nobody names them.
      trained: False if the weights were drawn.
      run: where they are from, if that is a run.
    """

    name: str
    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: ImageFormat
    label_names: tuple[str, ...]
    trained: bool = True
    run: Run | None = None


def open_run(workdir: Path, which: str = "best", *, tasks: Collection[str] = ("classification",)) -> Classifier:
    """Return the classifier of a run.

    Args:
      workdir: of the run.
      which: "best", "last", or the number of a step.
      tasks: what it may have been trained for; with "regression", its ``label_names`` are those of the numbers.
    Raises:
      ValueError: there is no such run or checkpoint, or it was trained for something else.
    """
    run = load_run(workdir, int(which) if which.isdecimal() else which)
    if run.task == "multilabel" and run.task not in tasks:
        raise ValueError(f"{workdir} was trained for {run.task}; take a run with one class per image")
    if run.task not in tasks:
        raise ValueError(f"{workdir} was trained for {run.task}; {run.used_by(workdir)}")
    name = f"{run.config['model']}, {run.config['dataset']}"
    # Step 0 is before the first one.
    return Classifier(name, run.model, run.variables, run.preprocessing, run.label_names, run.step > 0, run)


def open_variant(name: str, weights: str | None, num_classes: int | None = None) -> Classifier:
    """Return a variant with weights of a source.

    Args:
      name: of the variant.
      weights: a file, a run or a hub, see `load`; None draws them.
      num_classes: of the weights; None for what a run says, or the published number.
    Raises:
      ValueError: an unknown variant, or none that classifies; weights that cannot be read or do not fit.
    """
    info = model_info(name)
    if info.task != "classification":
        raise ValueError(f"{name} is a network for {info.task}; take one whose task is classification")
    if weights is None:
        expected = ImageFormat(info.input_size, info.mean, info.std, None, info.resize_size, info.interpolation)
    else:
        expected = image_format(name, weights)
    classes = num_classes or len(expected.label_names or ()) or info.num_classes or 1000
    model = create_model(name, num_classes=classes)
    if weights is None:
        # Compiling all of the drawing takes longer than drawing.
        variables = model.init(jax.random.key(0), jnp.zeros((1, *info.input_size, info.channels)))
    else:
        variables = load(name, weights, num_classes=classes)
    names = expected.label_names or (imagenet_classes() if classes == 1000 else tuple(map(str, range(classes))))
    return Classifier(name, model, variables, expected, tuple(names), trained=weights is not None)
