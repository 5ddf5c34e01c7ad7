"""The table of published weights: what torchvision says of its own, for our variants.

``published.json`` is written by ``tests/pretrained/generate_published.py``.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnjax.models import model_info
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.classes import imagenet_classes
from cnnjax.pretrained.weights import WeightsInfo
from cnnjax.runs.images import ImageFormat

SCHEME = "torchvision://"


@functools.cache
def published_weights() -> Mapping[str, WeightsInfo]:
    """Return all published weights of the table by source, such as ``torchvision://resnet50/IMAGENET1K_V2``."""
    table = json.loads((Path(__file__).parent / "published.json").read_text())
    classes = {"imagenet": imagenet_classes(), "voc": tuple(table["voc"]), None: ()}
    rows = (_info(table["common"] | row, classes) for row in table["weights"])
    return MappingProxyType({info.source: info for info in rows})


def _info(row: Mapping[str, Any], classes: Mapping[str | None, tuple[str, ...]]) -> WeightsInfo:
    size = row["image_size"]
    images = ImageFormat(
        (size, size),
        tuple(row["mean"]),
        tuple(row["std"]),
        row["resize_size"],
        row["interpolation"],
        crop=row["crop"],
    )
    model, label_names = model_info(row["model"]), classes[row["classes"]]
    return WeightsInfo(
        source=f"{SCHEME}{row['name']}",
        model=row["model"],
        num_classes=len(label_names) or model.num_classes,
        images=images,
        label_names=label_names,
        task=model.task,
        naming="torchvision",
        file=row["file"],
        size_mib=row["size_mib"],
        data=row["data"],
        metrics=MappingProxyType(row["metrics"]),
        gmacs=row["gmacs"],
        recipe=row["recipe"],
        licence=row["licence"],
    )


def list_weights(pattern: str = "*") -> list[str]:
    """Return the published weights of the table that match a shell pattern, as `weights_info` and ``load`` take them.

    Those of timm are not in it: its repositories on the Hugging Face hub say of themselves what they are
    (``hf://timm/resnet50.a1_in1k``).

    >>> cnnjax.list_weights("resnet18*")
    ['torchvision://resnet18/IMAGENET1K_V1']

    Args:
      pattern: as in ``fnmatch``, with or without ``torchvision://``.
    """
    full = pattern if pattern.startswith(SCHEME) else f"{SCHEME}{pattern}"
    return sorted(fnmatch.filter(published_weights(), full))


def find_published(source: str) -> WeightsInfo:
    """Return the row of the table of a source.

    Raises:
      WeightsFileError: there is none; the message lists the network's others, or near names.
    """
    table = published_weights()
    if source in table:
        return table[source]
    model = source.removeprefix(SCHEME).partition("/")[0]
    near = list_weights(f"{model}/*") or difflib.get_close_matches(source, table, n=3)
    hint = f"there are {', '.join(near)}" if near else "cnnjax.list_weights() lists what there is"
    raise WeightsFileError(f"{source}: torchvision publishes no such weights; {hint}")


def published_file(name: str) -> WeightsInfo | None:
    """Return the row of the table whose file is called ``name``, None if there is none."""
    return next((info for info in published_weights().values() if info.file == name), None)
