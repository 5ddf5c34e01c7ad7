"""A network with the weights of any source, as it was published or trained."""

from __future__ import annotations

import os
from typing import Any

from cnnjax.models import create_model
from cnnjax.pretrained.arrays import source_path
from cnnjax.pretrained.channels import adapt_format
from cnnjax.pretrained.info import weights_info
from cnnjax.pretrained.load import load_fitting
from cnnjax.pretrained.weights import class_names
from cnnjax.runs.network import LoadedNetwork
from cnnjax.runs.reader import find_checkpoint
from cnnjax.runs.run import load_run


def from_source(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    which: str | int = "best",
    num_classes: int | None = None,
    naming: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    entry: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> LoadedNetwork:
    """Return a network with its weights, what they expect of images, the names of its classes, and its licence.

    >>> network = cnnjax.pretrained.from_source("hf://timm/tf_efficientnet_b0.in1k")  # doctest: +SKIP
    >>> network.classify("cat.jpg", top=1)  # doctest: +SKIP
    [Prediction(label=..., probability=...)]

    Args:
      source: published weights (``torchvision://...``, ``hf://...``), a file, a folder, or a run, see
        `cnnjax.pretrained.load` and `cnnjax.weights_info`.
      name: the variant, where the source does not say it.
      which: the checkpoint of a run, see `cnnjax.load_run`.
      num_classes: of the weights; None for what the source says, or the published number.
      naming: whose names the weights have, see `cnnjax.pretrained.load`; None detects it.
      image_size: of weights that fit one size of images, see `cnnjax.pretrained.load`.
      channels: of the images, see `cnnjax.pretrained.load`; ``preprocessing`` is adapted with the weights.
      entry: which of several networks in the file, see `cnnjax.pretrained.load`.
      cache_dir: where fetched files are kept, see `cnnjax.pretrained.load`.
      **fields: of the network, which take precedence over those of the weights.
    Returns:
      A `cnnjax.runs.Run`, with config and step, of a run whose network is left as it is.
    Raises:
      WeightsFileError (a ValueError): see `cnnjax.weights_info` and `cnnjax.pretrained.load`.
      ValueError: ``name`` is not the variant that the source names; the weights do not fit, see `from_state_dict`.
    """
    if str(source).startswith("gs://"):
        return load_run(source, which)
    info = weights_info(source, name=name, naming=naming, cache_dir=cache_dir)
    if info.is_run:
        if not fields and num_classes is None and channels is None and entry is None:
            return load_run(source_path(source), which)
        source = find_checkpoint(source_path(source), which)
    fields = dict(info.fields) | fields
    classes = info.num_classes if num_classes is None else num_classes
    variables, fields = load_fitting(
        info.model,
        source,
        num_classes=classes,
        naming=naming or info.naming,
        image_size=image_size,
        channels=channels,
        entry=entry,
        cache_dir=cache_dir,
        **fields,
    )
    return LoadedNetwork(
        name=info.model,
        model=create_model(info.model, num_classes=classes, **fields),
        variables=variables,
        label_names=class_names(classes, info.label_names) if info.task == "classification" else info.label_names,
        preprocessing=info.images if channels is None else adapt_format(info.images, channels),
        task=info.task,
        origin=info.source,
        licence=info.licence,
    )
