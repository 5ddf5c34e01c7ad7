"""What a network does, read from its traced program: layers, shapes, parameters, multiply-adds, receptive fields.

Nothing is computed: networks are traced with abstract images. Works for any ``flax.linen`` module.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax.models.calls import SCOPE, Call, record_calls


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
    steps: list[_Step] = []
    _walk(jaxpr, [PARAMETER] * (len(jaxpr.invars) - 1) + [WHOLE], steps)
    return sum(step.macs for step in steps)


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
    steps: list[_Step] = []
    start = _Field((1.0, 1.0), (1.0, 1.0)) if len(shape) == 4 else WHOLE
    _walk(jaxpr, [PARAMETER] * (len(jaxpr.invars) - 1) + [start], steps)
    for number, step in enumerate(steps):
        path = calls[step.owner].path
        cells = rows[key(path)]
        cells.macs += step.macs
        if step.field is None or not step.field.image:
            continue
        if step.shape == cells.shape:
            cells.field, cells.last = step.field, number
        if step.pool and (depth is None or not path or path.count("/") + 1 < depth):
            table.append((number, Row(path, step.pool, step.shape, 0, 0, step.field.pixels(shape))))
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
    field: _Field | None = None
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


def _tuple(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or (1,))


def _over(strides: Any) -> str:
    """Return strides as text: "/2", nothing for 1."""
    values = _tuple(strides)
    return "" if set(values) == {1} else "/" + "x".join(map(str, values[:1] if len(set(values)) == 1 else values))


@dataclasses.dataclass(frozen=True)
class _Field:
    """What part of the image a value depends on: a window, and the step between the windows of neighbours.

    ``size`` None: everything; ``known`` False: no telling; ``image`` False: on parameters only. Constants have none.
    """

    size: tuple[float, float] | None
    step: tuple[float, float] = (1.0, 1.0)
    known: bool = True
    image: bool = True

    def window(self, window: Sequence[int], strides: Sequence[int], finer: Sequence[int] = (1, 1)) -> _Field:
        """Return the field of a sliding window's output; ``finer``: zeros were put between the inputs."""
        if self.size is None:
            return self
        step = [step / f for step, f in zip(self.step, finer, strict=True)]
        size = [size + (w - 1) * s for size, w, s in zip(self.size, window, step, strict=True)]
        height, width = (s * stride for s, stride in zip(step, strides, strict=True))
        return _Field((size[0], size[1]), (height, width))

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return height and width for images of this shape, None where there is no telling."""
        if not self.known or not self.image or len(shape) != 4:
            return None
        if self.size is None:
            return shape[1], shape[2]
        return math.ceil(self.size[0]), math.ceil(self.size[1])


WHOLE = _Field(None)
UNKNOWN = _Field(None, known=False)
PARAMETER = _Field(None, image=False)


def _union(fields: Iterable[_Field | None]) -> _Field | None:
    """Return the field of a value computed from values with these fields."""
    some = [field for field in fields if field is not None]
    present = [field for field in some if field.image]
    if not present:
        return some[0] if some else None
    for field in present:
        if field.size is None:
            return UNKNOWN if not all(other.known for other in present) else WHOLE
    widest = max(present, key=lambda field: field.size or (0.0, 0.0))
    sizes = [field.size for field in present if field.size is not None]
    return _Field((max(size[0] for size in sizes), max(size[1] for size in sizes)), widest.step)


class _Step(NamedTuple):
    """One operation of a program: the module it is in, what it costs, and what its output depends on."""

    owner: int
    macs: int
    field: _Field | None
    shape: tuple[int, ...]
    pool: str


def _walk(
    jaxpr: Any, fields: Sequence[_Field | None], steps: list[_Step], owner: int = 0, times: int = 1
) -> list[_Field | None]:
    """Append the steps of a program in order, those of nested programs included, and return its outputs' fields.

    Args:
      jaxpr: the program.
      fields: of its inputs.
      steps: the list to append to.
      owner: the module it belongs to.
      times: how often it runs.
    """
    known: dict[Any, _Field | None] = dict(zip(jaxpr.invars, fields, strict=True))

    def look_up(variable: Any) -> _Field | None:
        return None if hasattr(variable, "val") else known.get(variable)

    for equation in jaxpr.eqns:
        inputs = [look_up(variable) for variable in equation.invars]
        scopes = SCOPE.findall(str(equation.source_info.name_stack))
        place = int(scopes[-1]) if scopes else owner
        outputs = [_field(equation, inputs)] * len(equation.outvars)
        for nested in _nested(equation):
            runs = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
            # What a branch or a loop takes comes after what decides over it.
            inner = _walk(nested, inputs[len(inputs) - len(nested.invars) :], steps, place, runs)
            if len(inner) == len(outputs):
                outputs = inner
        known.update(zip(equation.outvars, outputs, strict=True))
        shape = tuple(equation.outvars[0].aval.shape) if equation.outvars else ()
        field = outputs[0] if outputs else None
        steps.append(_Step(place, times * _macs(equation, inputs), field, shape, _pool(equation)))
    return [look_up(variable) for variable in jaxpr.outvars]


def _nested(equation: Any) -> list[Any]:
    """Return the programs that an operation runs; of those of a custom derivative only the forward one."""
    if equation.primitive.name in ("reduce_window", "reduce", "scatter", "scatter-add", "sort"):
        return []
    nested = []
    for name, value in equation.params.items():
        if name in ("jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "cond_jaxpr"):
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                nested.append(program)
    # Of several branches one runs: the first stands for all.
    return nested[:1]


def _macs(equation: Any, inputs: Sequence[_Field | None]) -> int:
    """Return the multiply-adds of a convolution or of a product with parameters."""
    name = equation.primitive.name
    if name == "conv_general_dilated":
        images, kernel = (variable.aval.shape for variable in equation.invars)
        output = equation.outvars[0].aval.shape
        numbers = equation.params["dimension_numbers"]
        if math.prod(equation.params["lhs_dilation"]) > 1:
            return math.prod(images) // images[numbers.lhs_spec[1]] * math.prod(kernel)
        return math.prod(output) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    # Products with constants, as in resizing, are no dense layers.
    if name == "dot_general" and any(field is not None and not field.image for field in inputs):
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    return 0


def _pool(equation: Any) -> str:
    """Return the name of a pooling over space, empty for other operations."""
    names = {"max": "max pool", "sum": "average pool", "min": "min pool"}
    kind = equation.primitive.name.rpartition("window_")[2]
    windows = _windows(equation)
    if kind not in names or windows is None or windows[0] == (1, 1):
        return ""
    (height, width), strides = windows
    return f"{names[kind]} {height}x{width}{_over(strides)}"


def _windows(equation: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return window and strides of a pooling, of XLA's or of ours; None for other operations."""
    name, params = equation.primitive.name, equation.params
    if name in ("window_max", "window_sum"):
        return params["window"], params["strides"]
    if not name.startswith("reduce_window") or len(params["window_dimensions"]) != 4:
        return None
    return tuple(params["window_dimensions"][1:3]), tuple(params["window_strides"][1:3])


def _field(equation: Any, inputs: Sequence[_Field | None]) -> _Field | None:
    """Return what the output of an operation depends on; images are [batch, height, width, ...] throughout."""
    field = _union(inputs)
    if field is None or field.size is None:
        return field
    name, params = equation.primitive.name, equation.params
    before = next(
        v.aval.shape for v, known in zip(equation.invars, inputs, strict=True) if known is not None and known.image
    )
    after = equation.outvars[0].aval.shape
    if name == "conv_general_dilated":
        if params["dimension_numbers"].lhs_spec != (0, 3, 1, 2):
            return UNKNOWN
        kernel = [equation.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec[2:]]
        window = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, params["rhs_dilation"], strict=True)]
        return field.window(window, params["window_strides"], params["lhs_dilation"])
    if name in ("window_max", "window_sum"):
        return field.window(params["window"], params["strides"])
    if name.startswith("reduce_window"):
        dilations = params["window_dilation"][1:3]
        window = [(k - 1) * d + 1 for k, d in zip(params["window_dimensions"][1:3], dilations, strict=True)]
        return field.window(window, params["window_strides"][1:3])
    if name == "slice":
        strides = params["strides"] or (1,) * len(before)
        return field.window((1, 1), strides[1:3])
    if name == "pad":
        return field.window((1, 1), (1, 1), [interior + 1 for _, _, interior in params["padding_config"][1:3]])
    if name.startswith(("reduce_", "arg")):
        return WHOLE if {1, 2} & set(params["axes"]) else field
    if name in ("reshape", "squeeze"):
        return field if after[:3] == before[:3] or math.prod(before[1:3]) == 1 else WHOLE
    if name == "transpose":
        return field if params["permutation"][:3] == (0, 1, 2) else UNKNOWN
    if name == "dot_general":
        # A dense layer on each pixel leaves the first axes where they are.
        return field if after[:3] == before[:3] else UNKNOWN
    if name in ("concatenate", "dynamic_slice", "broadcast_in_dim") or after[:3] == before[:3] or len(after) < 3:
        return field
    return UNKNOWN
