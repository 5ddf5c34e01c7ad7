"""What a network does, read from its traced program: layers, shapes, parameters, multiply-adds, receptive fields.

Nothing is computed: networks are traced with abstract images. Works for any ``flax.linen`` module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax.models.calls import Call, record_calls
from cnnjax.models.program import PIXEL, WHOLE, Field, Pooling, read_program


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of a `Summary`.

    Attributes:
      path: where its parameters are, with slashes; empty for a row of the network as a whole.
      layer: kind, window, strides and groups, such as "Conv 3x3/2".
      output_shape: of the layer's output, batch first.
      params: number of its parameters.
      macs: multiply-adds of its convolutions and dense layers.
      receptive_field: height and width of the part of the image that one output depends on, pixels, of which padding
        may be a part; the image's size where outputs see all of it, None where there is no telling.
    """

    path: str
    layer: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    receptive_field: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """The table of a network's layers; ``str`` prints it.

    Attributes:
      name: of the network's class.
      input_shape: batch first.
      rows: in the order of computation.
      params, batch_stats: numbers of parameters and of running statistics.
      macs: multiply-adds of one pass over the input, those outside any row included.
    """

    name: str
    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    params: int
    batch_stats: int
    macs: int

    def __str__(self) -> str:
        """Return the table as text."""
        head = ("path", "layer", "output shape", "parameters", "multiply-adds", "receptive field")
        cells = [
            (
                row.path,
                row.layer,
                "x".join(map(str, row.output_shape)),
                f"{row.params:,}",
                f"{row.macs:,}",
                "-" if row.receptive_field is None else "x".join(map(str, row.receptive_field)),
            )
            for row in self.rows
        ]
        total = ("total", self.name, "", f"{self.params:,}", f"{self.macs:,}", "")
        widths = [max(map(len, column)) for column in zip(head, *cells, total, strict=True)]

        def line(row: Sequence[str]) -> str:
            left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
            return "  ".join(left + [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)])

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        text = [f"{self.name}, input {'x'.join(map(str, self.input_shape))}", line(head), rule, *map(line, cells), rule]
        text.append(line(total))
        if self.batch_stats:
            text.append(f"and {self.batch_stats:,} running statistics")
        return "\n".join(part.rstrip() for part in text)


def count_macs(model: nn.Module, input_shape: Sequence[int], **kwargs: Any) -> int:
    """Return the multiply-adds of the convolutions and dense layers in one forward pass.

    Read from the traced program, so that it holds for any module. A transposed convolution counts what its inputs
    take part in, not the zeros between them. Biases, normalisation, pooling, resizing and products of two activations
    do not count. Auxiliary heads that run in this mode do, as in the published figures: in evaluation those of the
    segmentation networks; ``mutable=[]`` leaves them out.

    >>> import cnnjax
    >>> cnnjax.count_macs(cnnjax.create_model("resnet50"), (224, 224, 3))
    4089184256

    Args:
      model: the network.
      input_shape: (height, width, channels) for one image, or the whole shape with the batch first.
      **kwargs: for ``model.apply``, as ``train=True`` with ``mutable`` and ``rngs``.
    """
    _, jaxpr, _ = _trace(model, _with_batch(input_shape), kwargs)
    return sum(step.macs for step in read_program(jaxpr, WHOLE))


def summary(model: nn.Module, input_shape: Sequence[int], *, depth: int | None = None, **kwargs: Any) -> Summary:
    """Return a table of the layers: paths, output shapes, parameters, multiply-adds, receptive fields.

    Layers that do nothing in this mode, such as dropout, are left out.

    Args:
      model: the network.
      input_shape: (height, width, channels) for one image, or the whole shape with the batch first.
      depth: fold everything more than so many path parts deep into its parent's row (1: stages); None for every layer.
      **kwargs: for ``model.apply``, as ``train=True`` with ``mutable`` and ``rngs``.
    Returns:
      A `Summary`, whose ``str`` is the printed table.
    """
    shape = _with_batch(input_shape)
    variables, jaxpr, calls = _trace(model, shape, kwargs)

    def key(path: str) -> str:
        return path if depth is None else "/".join(path.split("/")[:depth])

    rows = {
        call.path: _Cells(_describe(call.module), call.output_shape) for call in calls if call.path == key(call.path)
    }
    for path, leaf in traverse_util.flatten_dict(variables.get("params", {}), sep="/").items():
        # Layers of another mode, such as GoogLeNet's auxiliary classifiers, only have their parameters counted.
        rows.setdefault(key(path.rpartition("/")[0]), _Cells("does not run")).params += leaf.size

    table: list[tuple[float, Row]] = []
    steps = read_program(jaxpr, PIXEL if len(shape) == 4 else WHOLE)
    for number, step in enumerate(steps):
        path = calls[step.owner].path
        cells = rows[key(path)]
        cells.macs += step.macs
        if step.field is None or not step.field.image:
            continue
        if step.shape == cells.shape:
            cells.field, cells.last = step.field, number
        if step.pooling and (depth is None or not path or path.count("/") + 1 < depth):
            layer = _describe_pooling(step.pooling)
            table.append((number, Row(path, layer, step.shape, 0, 0, step.field.pixels(shape))))
    for path, cells in rows.items():
        if cells.params or cells.macs:
            field = cells.field.pixels(shape) if cells.field else None
            table.append((cells.last, Row(path, cells.layer, cells.shape, cells.params, cells.macs, field)))
    return Summary(
        type(model).__name__,
        shape,
        tuple(row for _, row in sorted(table, key=lambda item: item[0])),
        sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {}))),
        sum(leaf.size for leaf in jax.tree.leaves(variables.get("batch_stats", {}))),
        sum(step.macs for step in steps),
    )


@dataclasses.dataclass
class _Cells:
    """A row while it is being filled."""

    layer: str
    shape: tuple[int, ...] = ()
    params: int = 0
    macs: int = 0
    field: Field | None = None
    last: float = math.inf


def _with_batch(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_shape)
    if not shape or any(not isinstance(length, int) or length < 1 for length in shape):
        raise ValueError(f"input_shape must be (height, width, channels), with or without a batch, got {input_shape!r}")
    return (1, *shape) if len(shape) == 3 else shape


def _trace(
    model: nn.Module, shape: tuple[int, ...], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Any, list[Call]]:
    """Return the variables, the program of a forward pass, whose last input are the images, and the modules in it."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    of_call = {name: value for name, value in kwargs.items() if name not in ("mutable", "rngs")}
    variables = jax.eval_shape(lambda key, x: model.init(key, x, **of_call), jax.random.key(0), images)
    kwargs = {"mutable": ["aux_logits"], **kwargs}
    with record_calls() as calls:
        program = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, **kwargs))(variables, images)
    return variables, program.jaxpr, calls


def _describe(module: nn.Module) -> str:
    """Return what kind of layer a module is, with window, strides, dilation and groups of a convolution."""
    text = type(module).__name__
    if isinstance(module, nn.Conv | nn.ConvTranspose):
        window = (module.kernel_size,) if isinstance(module.kernel_size, int) else module.kernel_size
        text += f" {'x'.join(map(str, window))}{_over(module.strides)}"
        if module.kernel_dilation not in (1, None) and set(_tuple(module.kernel_dilation)) != {1}:
            text += f", dilation {max(_tuple(module.kernel_dilation))}"
        if getattr(module, "feature_group_count", 1) > 1:
            text += f", {module.feature_group_count} groups"
    return text


def _describe_pooling(pooling: Pooling) -> str:
    """Return the name of a pooling, with its window and strides."""
    name = {"max": "max pool", "sum": "average pool", "min": "min pool"}[pooling.kind]
    height, width = pooling.window
    return f"{name} {height}x{width}{_over(pooling.strides)}"


def _tuple(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or (1,))


def _over(strides: Any) -> str:
    """Return strides as text: "/2", nothing for 1."""
    values = _tuple(strides)
    return "" if set(values) == {1} else "/" + "x".join(map(str, values[:1] if len(set(values)) == 1 else values))
