"""What is known of a named network: the row that a family's file writes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of the 50,000 training images of CIFAR-10, pixels in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Published facts of a variant.

    Attributes:
      family: file of ``cnnjax.models`` it is in.
      paper: authors, year, arXiv id and table.
      num_params: trainable parameters, published, with ``num_classes`` outputs and ``channels`` input channels.
      num_classes: outputs of the published network (None for image-to-image networks).
      input_size: height and width it was published for, pixels.
      channels: channels of its input.
      min_size: smallest legal height and width, pixels.
      mean, std: normalisation a channel, for pixels in [0, 1].
      gmacs: published multiply-adds of one forward pass at ``input_size``, in 1e9 (None: not published).
      top1: ImageNet-1k validation accuracy of the reference weights, percent (None: there are none).
      weights: the reference weights that ``top1`` belongs to.
    """

    family: str
    paper: str
    num_params: int
    num_classes: int | None = 1000
    input_size: tuple[int, int] = (224, 224)
    channels: int = 3
    min_size: int = 32
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    gmacs: float | None = None
    top1: float | None = None
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A named row: a network, the fields that make it this variant, and what is published of it."""

    network: type[nn.Module]
    fields: Mapping[str, Any]
    info: ModelInfo

    def __post_init__(self) -> None:
        """Freeze the fields, so that no user of the table can change it for others."""
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))
