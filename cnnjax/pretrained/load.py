"""Weights from files, runs and hubs into variables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cnnjax.models import model_info
from cnnjax.pretrained.arrays import WeightsFileError, quoted, source_path
from cnnjax.pretrained.auxiliary import auxiliary_field, fit_auxiliary_heads
from cnnjax.pretrained.convert import from_state_dict, named_arrays
from cnnjax.pretrained.formats import find_reader, weights_in
from cnnjax.pretrained.hub import fetch
from cnnjax.pretrained.info import described, other_network
from cnnjax.pretrained.keras_files import read_keras
from cnnjax.pretrained.keras_weights import keras_fields
from cnnjax.pretrained.plan import reference_shapes, sources
from cnnjax.runs.reader import read_run, run_image_size


def load(
    name: str,
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    redraw_head: jax.Array | None = None,
    naming: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    entry: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the variables of a variant from a file, a run or a hub.

    ``source`` is one of

    - a safetensors file (``.safetensors``);
    - a file of PyTorch (``.pth``, ``.pt``, ``.bin``), which is read without PyTorch and without executing anything that
      it says: plain objects beside the weights are left out, and files that hold more are refused;
    - a file of Keras (``.weights.h5``, ``.keras``, ``.h5``; needs h5py);
    - a file of Flax variables (``.mpk``, ``.msgpack``), as `flax.serialization.to_bytes` makes them;
    - the index (``.index.json``) of such files that hold parts of the weights, or a folder with one of these names of
      the hub: ``model.safetensors``, ``pytorch_model.bin``, ``model.weights.h5``, or an index of the first two;
    - a workdir of `experiments/train.py`, its folder ``checkpoints``, or one of these;
    - ``hf://owner/repo`` (with ``@revision`` or ``/file`` where they matter; needs huggingface_hub), or
      ``torchvision://resnet50/IMAGENET1K_V2``: fetched when first asked for, checked, and kept.

    What kind of file it is, its first bytes tell. Arrays are matched by name, as in `from_state_dict`, which says what
    is left out around and beside them, and read one by one. Auxiliary heads that the network lacks are left out.
    Weights that want another network or other images than the caller's say so in a warning, as far as it is known;
    `from_source` takes what they want.

        variables = cnnjax.pretrained.load("resnet50", "resnet50-11ad3fa6.pth")
        variables = cnnjax.pretrained.load(
            "resnet50", "model.safetensors", num_classes=5, redraw_head=jax.random.key(0)
        )
        grey = cnnjax.pretrained.load("resnet50", "resnet50-11ad3fa6.pth", channels=1)

    Args:
      name: a variant, see `cnnjax.list_models`.
      source: where the weights are.
      num_classes: outputs of the classifier; None means the published number. 0 leaves the classifier out.
      redraw_head: a random key from which to draw new classifiers, whatever number of classes the weights have.
      naming: whose names the weights have ("torchvision", "timm", "keras", ..., see `sources`); None finds it out.
      image_size: height and width, pixels, of the images that a network which flattens its maps (`lenet5`) was
        trained with; None is a run's own, and else the published size.
      channels: of the images, where they are not those of the weights: 1, 2, 4 or more. The first kernel is adapted as
        timm does, see `adapt_kernel`, and `adapt_format` says how to normalise such images. The network itself takes as
        many channels as its variables do: ``create_model(name)`` needs no word of it.
      entry: which of several networks in a file: the entry of its dictionary, or what is before the names, such as
        "model_ema" or "encoder_k". None means the only one, and the plain one beside moving averages.
      cache_dir: where fetched files are kept; None is the hub's own cache, and ``~/.cache/cnnjax`` (``CNNJAX_CACHE``).
      **fields: other fields of the network that decide shapes, as in `cnnjax.create_model`.
    Returns:
      {"params": ..., "batch_stats": ...} of arrays, for ``create_model(name, num_classes=..., **fields).apply``.
    Raises:
      WeightsFileError (a ValueError): the file is not there, damaged, truncated, refused, or holds numbers that are not
        finite; a hub cannot be reached.
      ValueError: the weights do not fit, see `from_state_dict`.
    """
    variables, fitting = load_fitting(
        name,
        source,
        num_classes=num_classes,
        redraw_head=redraw_head,
        naming=naming,
        image_size=image_size,
        channels=channels,
        entry=entry,
        cache_dir=cache_dir,
        **fields,
    )
    if other := {field: value for field, value in fitting.items() if fields.get(field) is not value}:
        ((field, value),) = other.items()
        raise ValueError(
            f"{source}: the weights have no auxiliary head, and the network has; say {field}={value} here and in "
            f"create_model({name!r}, {field}={value})"
        )
    try:
        known = described(source, cache_dir)
    except WeightsFileError:
        # What they want cannot be told, as of a network that is not ours: the caller's word counts.
        known = None
    if known is not None and (wanted := other_network(name, source, fields, known)):
        warnings.warn(wanted, stacklevel=2)
    return variables


def load_fitting(
    name: str,
    source: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    redraw_head: jax.Array | None = None,
    naming: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    entry: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return variables as `load` does, and the fields that fit them: those given, less auxiliary heads they lack.

    Args:
      name, source, num_classes, redraw_head, naming, image_size, channels, entry, cache_dir, **fields: see `load`.
    Raises:
      ValueError: see `load`.
    """
    model_info(name)
    arrays, found, image_size = read_weights(source, cache_dir, image_size)
    try:
        naming = naming or found or _naming(name, arrays, fields, entry)
        if naming != "keras" and auxiliary_field(name, fields) is not None:
            expected = reference_shapes(name, source=naming, **fields).keys()
            arrays, entry = named_arrays(name, arrays, {naming: expected}, entry)[1], None
            arrays, fields = fit_auxiliary_heads(name, arrays, naming, fields)
        variables = from_state_dict(
            name,
            arrays,
            source=naming,
            num_classes=num_classes,
            redraw_head=redraw_head,
            image_size=image_size,
            channels=channels,
            entry=entry,
            **fields,
        )
    except WeightsFileError:
        raise
    except ValueError as error:
        wanted = keras_fields(name) if "keras" in (naming, found) else {}
        if all(fields.get(field) == value for field, value in wanted.items()):
            raise ValueError(f"{source}: {error}") from error
        said = ", ".join(f"{field}={value!r}" for field, value in wanted.items())
        raise ValueError(f"{source}: {error}; Keras's network is {name} with {said}, as from_source sets") from error
    _check_finite(source, variables)
    return variables, fields


def read_weights(
    source: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
) -> tuple[Mapping[str, Any], str | None, int | None]:
    """Return the arrays of a source by name, whose names they are, and the size of their images, if that is known.

    Args:
      source: see `load`.
      cache_dir, image_size: see `load`.
    Raises:
      WeightsFileError: see `load`.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    path = fetch(str(source), cache) if "://" in str(source) else source_path(source)
    if path.is_dir():
        file = weights_in(path)
        if file is None:
            variables = traverse_util.flatten_dict(read_run(path), sep="/")
            arrays = {name.partition("/")[2]: value for name, value in variables.items()}
            return arrays, "cnnjax", image_size or run_image_size(path)
        path = file
    reader = find_reader(path)
    return reader(path), "keras" if reader is read_keras else None, image_size


def _naming(name: str, arrays: Mapping[str, Any], fields: Mapping[str, Any], entry: str | None) -> str:
    """Return the source whose names fit ``arrays`` best."""
    expected = {
        source: reference_shapes(name, source=source, **fields).keys() for source in sources(name) if source != "keras"
    }
    best, given = named_arrays(name, arrays, expected, entry)
    if not given.keys() & expected[best]:
        raise ValueError(
            f"{name}: the names of the weights, such as {', '.join(map(quoted, list(given)[:3]))}, are none of "
            f"{', '.join(expected)}; name them after one of these, see cnnjax.pretrained.reference_shapes"
        )
    return best


def _check_finite(source: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    flat = traverse_util.flatten_dict(variables, sep="/")
    bad = sorted(path for path, leaf in flat.items() if not np.isfinite(np.asarray(leaf)).all())
    if bad:
        raise WeightsFileError(
            f"{source} holds numbers that are not finite, in {len(bad)} arrays: {', '.join(bad[:5])}"
            + ", ..." * (len(bad) > 5)
        )
