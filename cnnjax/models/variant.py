"""What is known of a named network: the row that a family's file writes for it."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.calls import record_calls

RowType = TypeVar("RowType", bound=NamedTuple)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Task = Literal["classification", "segmentation", "restoration"]
# Mean and standard deviation of the 50,000 training images of CIFAR-10, pixels in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Published facts of a variant.

    Attributes:
      family: the module of ``cnnjax.models`` that it is in.
      paper: authors, year, arXiv id and table.
      num_params: trainable parameters, published, with ``num_classes`` outputs and ``channels`` input channels.
      task: what the network returns: logits of the image (classification), logits of each pixel (segmentation), or an
        image like its input (restoration).
      num_classes: outputs of the published network (None for restoration).
      input_size: height and width it was published for, pixels.
      output_size: height and width of what a segmentation or restoration network returns for ``input_size`` (None: as
        its input).
      channels: channels of its input.
      resize_size: shorter side, pixels, to which an image is resized in evaluation before its centre of ``input_size``
        is taken, for the reference weights (None: 8/7 of ``input_size``).
      interpolation: of that resize.
      min_size: smallest legal height and width, pixels.
      size_step: legal heights and widths are ``min_size`` plus multiples of it.
      mean, std: normalisation per channel, for pixels in [0, 1].
      gmacs: published multiply-adds of one forward pass at ``input_size``, in 1e9 (None: not published).
      top1: ImageNet-1k validation accuracy of the reference weights, percent (None: there are none).
      result: a published result other than ``top1``, in words (None: there is none).
      weights: the reference weights that ``top1`` or ``result`` belongs to.
      build: makes the network; set where the tables are merged.
    """

    family: str
    paper: str
    num_params: int
    task: Task = "classification"
    num_classes: int | None = 1000
    input_size: tuple[int, int] = (224, 224)
    output_size: tuple[int, int] | None = None
    channels: int = 3
    resize_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    min_size: int = 32
    size_step: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    gmacs: float | None = None
    top1: float | None = None
    result: str | None = None
    weights: str | None = None
    build: Callable[[], nn.Module] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone, for pickle and copy: `stages` is found again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def stages(self) -> Mapping[str, int]:
        """Paths of the stages, in the order of computation, and their strides.

        The stride is how many pixels of the image one pixel of the stage's output stands for: a detector or segmenter
        built on the network takes its maps by stride. See `cnnjax.extract_features` for the maps themselves. Read from
        the network by shape inference at first use.

        >>> import cnnjax
        >>> dict(cnnjax.model_info("resnet50").stages)
        {'stage1': 4, 'stage2': 8, 'stage3': 16, 'stage4': 32}
        """
        assert self.build is not None, "belongs to no variant"
        # Legal sizes, whose difference any stride divides: what it divides it to is not for padding to change.
        more = math.lcm(64, self.size_step)
        (height, width), outputs = self.input_size, []
        for extra in (0, more):
            images = jax.ShapeDtypeStruct((1, height + extra, width + extra, self.channels), jnp.float32)
            with record_calls() as calls:
                jax.eval_shape(self.build().init, jax.random.key(0), images)
            outputs.append({call.path: call.output_shape for call in calls if len(call.output_shape) == 4})
        stages = (path for path in outputs[0] if re.fullmatch(r"(.*/)?stage\d+", path))
        return MappingProxyType({path: more // (outputs[1][path][1] - outputs[0][path][1]) for path in stages})


def named_rows(row_type: type[RowType], rows: Iterable[Sequence[Any]]) -> tuple[RowType, ...]:
    """Return the rows of a table with their columns named: a network's field that came from JSON holds plain tuples.

    Args:
      row_type: a ``NamedTuple``, the columns of the table.
      rows: each with as many values as there are columns.
    Raises:
      ValueError: a row of another length.
    """
    columns = row_type._fields
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"each of rows must hold {', '.join(columns)}, got {row!r}")
    return tuple(row_type(*row) for row in rows)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A named row: a network, the fields that make it this variant, and what is published of it."""

    network: type[nn.Module]
    fields: Mapping[str, Any]
    info: ModelInfo

    def __post_init__(self) -> None:
        """Freeze the fields, so that no user of the table can change it for others."""
        self.__setstate__({"fields": dict(self.fields)})

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for pickle and copy, which a read-only view would stop."""
        return {"network": self.network, "fields": dict(self.fields), "info": self.info}

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Set attributes, fields read-only."""
        for name, value in values.items():
            object.__setattr__(self, name, MappingProxyType(value) if name == "fields" else value)


def build_variant(name: str) -> nn.Module:
    """Return a variant's network, by its name, as what is pickled has to be found again."""
    from cnnjax.models import VARIANTS

    return VARIANTS[name].network(**VARIANTS[name].fields)
