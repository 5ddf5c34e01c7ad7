"""What a network does, read from its traced program: layers, shapes, parameters, multiply-adds, receptive fields.

Nothing is computed: networks are traced with abstract images. Works for any ``flax.linen`` module.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax.models.calls import Call, record_calls
from cnnjax.models.program import IMAGE, PIXEL, WHOLE, Field, Pooling, Step, read_program
from cnnjax.nn import FoldedBatchNorm, PoolingBatchNorm, StochasticDepth


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of a `Summary`.

    Attributes:
      path: of the module that it is or that it is in, with slashes; empty for a row of the network as a whole.
      layer: kind, window, strides and groups, such as "Conv 3x3/2", "max pool 2x2/2", "relu", "add" or "Dropout 0.5".
      output_shape: of the layer's output, batch first.
      params: number of its parameters.
      macs: multiply-adds of its convolutions and dense layers.
      receptive_field: height and width of the part of the image that one output depends on, pixels, of which padding
        may be a part; the image's size where outputs see all of it, None where there is no telling.
      inputs: places of the rows whose outputs it takes, `IMAGE` (-1) for the image itself.
      training_only: whether it belongs to an auxiliary head that runs in training only; its multiply-adds are in no
        total.
    """

    path: str
    layer: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    receptive_field: tuple[int, int] | None
    inputs: tuple[int, ...] = ()
    training_only: bool = False


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
                f"{row.layer} (in training)" if row.training_only else row.layer,
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
        if training := sum(row.macs for row in self.rows if row.training_only):
            text.append(f"and {training:,} multiply-adds in training")
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

    Activations, poolings, additions, concatenations and the like have rows of their own, at the path of the module that
    they are in. Heads that run in training only come from a second trace, with ``train=True``.

    Args:
      model: the network.
      input_shape: (height, width, channels) for one image, or the whole shape with the batch first.
      depth: fold everything below this many parts of a path into its parent's row (1: stages); None for every layer.
      **kwargs: for ``model.apply``, as ``train=True`` with ``mutable`` and ``rngs``.
    Returns:
      A `Summary`, whose ``str`` is the printed table.
    """
    shape = _with_batch(input_shape)
    variables, jaxpr, calls = _trace(model, shape, kwargs)
    params = {
        path: leaf.size for path, leaf in traverse_util.flatten_dict(variables.get("params", {}), sep="/").items()
    }
    steps = read_program(jaxpr, PIXEL if len(shape) == 4 else WHOLE)
    table = _layers(shape, params, calls, steps, depth)
    if "train" not in kwargs and any(not cells.runs for cells in table) and _takes_train(model):
        training = {"train": True, "mutable": ["aux_logits", "batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        _, jaxpr, calls = _trace(model, shape, {**training, **kwargs})
        others = read_program(jaxpr, PIXEL if len(shape) == 4 else WHOLE)
        table = _with_training_only(table, _layers(shape, params, calls, others, depth))
    places = {id(cells): place for place, cells in enumerate(table)}
    rows = [
        Row(
            cells.path,
            cells.layer,
            cells.shape,
            cells.params,
            cells.macs,
            cells.field.pixels(shape) if cells.field else None,
            tuple(sorted(IMAGE if source is None else places[id(source)] for source in cells.inputs)),
            cells.training_only,
        )
        for cells in table
    ]
    return Summary(
        type(model).__name__,
        shape,
        tuple(rows),
        sum(params.values()),
        sum(leaf.size for leaf in jax.tree.leaves(variables.get("batch_stats", {}))),
        sum(step.macs for step in steps),
    )


@dataclasses.dataclass(eq=False)
class _Cells:
    """A row while it is being filled; what it takes its inputs from, None for the image."""

    path: str
    layer: str
    shape: tuple[int, ...] = ()
    params: int = 0
    macs: int = 0
    field: Field | None = None
    last: float = math.inf
    runs: bool = True
    drops: bool = False
    training_only: bool = False
    inputs: list[_Cells | None] = dataclasses.field(default_factory=list)

    @property
    def shown(self) -> bool:
        return bool(self.params or self.macs or self.drops)


def _layers(
    shape: tuple[int, ...], params: Mapping[str, int], calls: Sequence[Call], steps: Sequence[Step], depth: int | None
) -> list[_Cells]:
    """Return the rows of a traced program, in the order of computation.

    Args:
      shape: of the images.
      params: sizes of the parameters by path.
      calls: the modules that ran.
      steps: the program.
      depth: see `summary`.
    """

    def key(path: str) -> str:
        return path if depth is None else "/".join(path.split("/")[:depth])

    def apart(path: str) -> bool:
        return depth is None or not path or path.count("/") + 1 < depth

    modules = {
        call.path: _Cells(call.path, _describe(call.module), call.output_shape, drops=_drops(call.module))
        for call in calls
        if call.path == key(call.path)
    }
    for path, size in params.items():
        parent = key(path.rpartition("/")[0])
        modules.setdefault(parent, _Cells(parent, "does not run", runs=False)).params += size
    for step in steps:
        modules[key(calls[step.owner].path)].macs += step.macs

    table: list[_Cells] = []
    rows: list[_Cells | None] = []
    for number, step in enumerate(steps):
        path = calls[step.owner].path
        cells: _Cells | None = modules[key(path)]
        if step.field is None or not step.field.image:
            rows.append(None)
            continue
        if (step.pooling or step.function) and apart(path) and not _is_norm(calls[step.owner].module):
            layer = _describe_pooling(step.pooling) if step.pooling else str(step.function)
            cells = _Cells(path, layer, step.shape, field=step.field, last=number)
            table.append(cells)
        else:
            if step.shape == modules[key(path)].shape:
                modules[key(path)].field, modules[key(path)].last = step.field, number
            if not modules[key(path)].shown:
                cells = None
        rows.append(cells)
    table += [cells for cells in modules.values() if cells.shown]
    _connect(steps, rows)
    return sorted(table, key=lambda cells: cells.last)


def _connect(steps: Sequence[Step], rows: Sequence[_Cells | None]) -> None:
    """Note for each row which others its steps take their inputs from, past steps that are in no row."""
    behind: list[dict[_Cells | None, None]] = []
    for step, cells in zip(steps, rows, strict=True):
        sources: dict[_Cells | None, None] = {}
        for source in sorted(step.inputs):
            sources |= {None: None} if source == IMAGE else behind[source]
        if cells is None:
            behind.append(sources)
            continue
        cells.inputs += [source for source in sources if source is not cells and source not in cells.inputs]
        behind.append({cells: None})


def _with_training_only(evaluation: list[_Cells], training: list[_Cells]) -> list[_Cells]:
    """Return the rows of evaluation, with those that are in the table of training only where they are there."""
    evaluation = [cells for cells in evaluation if cells.runs]
    names = [[(cells.path, cells.layer, cells.shape) for cells in table] for table in (evaluation, training)]
    merged: list[_Cells] = []
    own: dict[_Cells, _Cells] = {}
    for kind, *places in difflib.SequenceMatcher(a=names[0], b=names[1], autojunk=False).get_opcodes():
        ours, theirs = evaluation[places[0] : places[1]], training[places[2] : places[3]]
        merged += ours
        if kind == "equal":
            own |= dict(zip(theirs, ours, strict=True))
            continue
        for cells in theirs:
            cells.training_only = cells.runs
            cells.inputs = [None if source is None else own.get(source, source) for source in cells.inputs]
        merged += theirs
    return merged


def _takes_train(model: nn.Module) -> bool:
    return "train" in inspect.signature(type(model).__call__).parameters


def _drops(module: nn.Module) -> bool:
    """Return whether a module drops values in training."""
    return isinstance(module, nn.Dropout | StochasticDepth) and module.rate > 0


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a normalisation, whose arithmetic is no layers of its own."""
    return isinstance(module, nn.BatchNorm | nn.LayerNorm | nn.GroupNorm | FoldedBatchNorm | PoolingBatchNorm)


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
    if isinstance(module, nn.Dropout | StochasticDepth):
        text += f" {module.rate:.3g}"
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
