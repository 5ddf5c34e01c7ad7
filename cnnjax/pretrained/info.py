"""What is known of the weights of any source, before they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.models import create_model, model_info
from cnnjax.pretrained.arrays import WeightsFileError, source_path
from cnnjax.pretrained.formats import WEIGHTS_FILES, weights_in
from cnnjax.pretrained.hub import fetch_config
from cnnjax.pretrained.keras_weights import keras_weights
from cnnjax.pretrained.own_config import own_weights
from cnnjax.pretrained.published import SCHEME, find_published, list_weights, published_file
from cnnjax.pretrained.timm_config import timm_weights
from cnnjax.pretrained.weights import WeightsInfo, weights_as_published
from cnnjax.runs.images import published_image_format, run_image_format
from cnnjax.runs.reader import run_config

KERAS_FILES = (".h5", ".keras")


def weights_info(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    naming: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> WeightsInfo:
    """Return which network weights belong to, which images they expect, and what is published about them.

    Torchvision's weights are in a table of this package; those of timm and of ours say it in the ``config.json`` beside
    them, and runs in theirs; a file called as torchvision publishes it is known too. Other files need ``name``, and are
    taken for what was published of the variant, or for Keras's where their names are.

    >>> info = cnnjax.weights_info("torchvision://resnet50/IMAGENET1K_V2")
    >>> info.model, info.images.resize_size, info.metrics["top1"]
    ('resnet50', 232, 80.858)

    Args:
      source: see `cnnjax.pretrained.load`; of ``hf://``, only the ``config.json`` is fetched.
      name: the variant, where the source does not say it.
      naming: whose names the weights have, where the source does not say it, see `cnnjax.pretrained.load`.
      cache_dir: see `cnnjax.pretrained.load`.
    Raises:
      WeightsFileError (a ValueError): torchvision has no such weights; the hub cannot be reached; there is no such
        file; a network that we do not have; or the source does not say which network its weights are of.
      ValueError: ``name`` is unknown, or not the variant that the source names.
    """
    found = described(source, cache_dir)
    if found is None:
        if name is None and "://" not in str(source) and not source_path(source).exists():
            raise WeightsFileError(
                f"there is no {source}; give a file of weights, a run, or published weights{_meant(source)}"
            )
        if name is None and source_path(source).is_dir() and weights_in(source_path(source)) is None:
            raise WeightsFileError(
                f"{source} holds no weights: neither a run nor one of {', '.join(WEIGHTS_FILES)} is there"
            )
        if name is None:
            raise WeightsFileError(
                f"{source} does not say which network its weights are of (there is no config.json beside them); name "
                "it: name='resnet50' in Python, --model resnet50 on a command line"
            )
        keras = naming == "keras" or Path(source).suffix.lower() in KERAS_FILES
        return keras_weights(name, str(source)) if keras else weights_as_published(name, str(source))
    if name not in (None, found.model):
        model_info(str(name))
        raise ValueError(f"{source} holds weights of {found.model}, and {name} was asked for; leave the name out")
    return found


def described(source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> WeightsInfo | None:
    """Return what a source says of its weights by itself, None if it says nothing; see `weights_info`."""
    text = str(source)
    if text.startswith(SCHEME):
        return find_published(text)
    if "://" in text:
        config = fetch_config(text, None if cache_dir is None else Path(cache_dir))
        return None if config is None else own_weights(config, text) or timm_weights(config, text)
    path = source_path(source)
    if path.is_dir():
        file = path / "config.json"
        known = own_weights(file, text) or timm_weights(file, text) if file.is_file() else None
        return known or _run_weights(path, text)
    return published_file(path.name)


def _meant(source: str | os.PathLike[str]) -> str:
    """Return which published weights somebody means who gives what is no path, in words; "" if none."""
    text = str(source)
    if text.startswith(("hf:/", "torchvision:/")):
        return "; a path has one slash there: give it as a str"
    if found := list_weights(text) or list_weights(f"{text}/*"):
        return f", such as {found[-1]}"
    return ""


def _run_weights(path: Path, source: str) -> WeightsInfo | None:
    """Return what a run of ours says of itself, None if the path is of none."""
    config = run_config(path)
    if config is None:
        return None
    asked, resolved = config["config"], config["resolved"]
    fields = dict(resolved["fields"])
    return WeightsInfo(
        source=source,
        model=asked["model"],
        num_classes=fields.pop("num_classes", None),
        fields=fields,
        images=run_image_format(config),
        label_names=tuple(resolved["label_names"] or ()),
        task=resolved["task"],
        naming="cnnjax",
        is_run=True,
    )


def other_network(name: str, source: str | os.PathLike[str], fields: Mapping[str, Any], found: WeightsInfo) -> str:
    """Return what the weights of a source want other than the caller's network has, in words; "" if nothing.

    Args:
      name, source, fields: see `cnnjax.pretrained.load`.
      found: what is known of the source.
    """
    if found.model != name:
        return ""
    model = create_model(name, **fields)
    # What is written with lists in JSON is tuples in networks.
    wanted = create_model(name, **found.fields)
    other = [
        f"{field}={value!r}" for field, value in found.fields.items() if getattr(model, field) != getattr(wanted, field)
    ]
    # Those of a run are of its data set, as everybody expects.
    images = not found.is_run and found.images != published_image_format(model_info(name))
    if not other and not images:
        return ""
    what = " and ".join(filter(None, [", ".join(other), "images of another kind" if images else ""]))
    return (
        f"the weights of {source} want {what} than {name} as it was published; take their own network and images:\n"
        f"  network = cnnjax.pretrained.from_source({str(source)!r})\n"
        "  logits = network.logits(np.stack([network.preprocessing.prepare(picture) for picture in pictures]))"
    )
