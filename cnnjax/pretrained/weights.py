"""What is known of weights without reading them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnnjax.models import model_info
from cnnjax.pretrained.classes import imagenet_classes
from cnnjax.runs.images import ImageFormat, published_image_format


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """Which network weights belong to, which images they expect, and what is published about them.

    Attributes:
      source: where they are, see `cnnjax.pretrained.load`.
      model: the variant, see `cnnjax.list_models`.
      fields: of the network, other than those of the variant.
      num_classes: outputs of the classifier; None where the network has none.
      images: what images have to look like.
      label_names: of the classes, in the order of the logits; empty where nobody names them.
      task: what the network returns, see `cnnjax.runs.LoadedNetwork`.
      naming: whose names the arrays have; None: it is detected when they are read.
      file: name of the file, whose end is the start of its SHA-256 where torchvision publishes it.
      size_mib: of the file, in 2**20 bytes.
      data: what ``metrics`` were measured on.
      metrics: published results in percent: top1, top5, mean_iou, pixel_accuracy.
      gmacs: published multiply-adds of one forward pass at the size of ``images``, in 1e9.
      recipe: where it is written how they were trained.
      licence: where the publisher says.
      is_run: whether they come from a run of this package.
    """

    source: str
    model: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int | None
    images: ImageFormat
    label_names: tuple[str, ...] = ()
    task: str = "classification"
    naming: str | None = None
    file: str | None = None
    size_mib: float | None = None
    data: str | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    gmacs: float | None = None
    recipe: str | None = None
    licence: str | None = None
    is_run: bool = False


def weights_as_published(name: str, source: str) -> WeightsInfo:
    """Return what is known of weights that say nothing of themselves: what was published of the variant.

    Args:
      name: the variant.
      source: where they are.
    Raises:
      ValueError: an unknown variant.
    """
    info = model_info(name)
    return WeightsInfo(
        source=source,
        model=name,
        num_classes=info.num_classes,
        images=published_image_format(info),
        label_names=class_names(info.num_classes) if info.task == "classification" else (),
        task=info.task,
    )


def class_names(num_classes: int | None, label_names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return names of classes: as given, those of ImageNet for a thousand, else numbers.

    Args:
      num_classes: how many there are; None: no classes.
      label_names: that somebody gave them; taken if they are as many.
    """
    count = num_classes or 0
    if len(label_names) == count:
        return label_names
    return imagenet_classes() if count == 1000 else tuple(map(str, range(count)))
