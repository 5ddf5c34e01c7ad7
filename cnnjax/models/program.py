"""What each operation of a traced forward pass costs, and which part of the images its output depends on.

An interpreter of jaxprs that computes nothing: it hands on windows instead of arrays.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cnnjax.models.calls import SCOPE

# How functions whose operations do not tell what they are mark them, see `cnnjax.nn`.
LAYER = re.compile(r"layer@([a-z0-9_ ]+)")
# Compiled functions of ``jax.nn``, which keep their names in a traced program, and single operations.
ACTIVATIONS = {
    **{name: name for name in ("celu", "elu", "gelu", "hard_sigmoid", "hard_tanh", "leaky_relu", "log_sigmoid")},
    **{name: name for name in ("log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax")},
    **{name: name for name in ("soft_sign", "softplus", "squareplus", "tanh")},
    **{"atan": "arctan", "hard_silu": "hard_swish", "logistic": "sigmoid"},
    # Nothing else takes the error function.
    **{"erf": "gelu", "erfc": "gelu"},
}
# What `cnnjax.nn` marks.
MARKED = ("gelu", "local response norm", "maxout", "softmax")
IMAGE = -1


@dataclasses.dataclass(frozen=True)
class Field:
    """What part of the image a value depends on: a window, and the step between the windows of neighbours.

    Attributes:
      size: height and width of the window, pixels; None for everything.
      step: pixels of the image between the windows of neighbours, down and to the right.
      known: False where there is no telling.
      image: False for what depends on parameters only. Constants have no `Field` at all.
    """

    size: tuple[float, float] | None
    step: tuple[float, float] = (1.0, 1.0)
    known: bool = True
    image: bool = True

    def window(self, window: Sequence[int], strides: Sequence[int], finer: Sequence[int] = (1, 1)) -> Field:
        """Return the field of a sliding window's output; ``finer``: zeros were put between the inputs."""
        if self.size is None:
            return self
        step = [step / f for step, f in zip(self.step, finer, strict=True)]
        size = [size + (w - 1) * s for size, w, s in zip(self.size, window, step, strict=True)]
        height, width = (s * stride for s, stride in zip(step, strides, strict=True))
        return Field((size[0], size[1]), (height, width))

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return height and width for images of this shape, None where there is no telling."""
        if not self.known or not self.image or len(shape) != 4:
            return None
        if self.size is None:
            return shape[1], shape[2]
        return math.ceil(self.size[0]), math.ceil(self.size[1])


PIXEL = Field((1.0, 1.0))
WHOLE = Field(None)
UNKNOWN = Field(None, known=False)
PARAMETER = Field(None, image=False)


def _union(fields: Iterable[Field | None]) -> Field | None:
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
    return Field((max(size[0] for size in sizes), max(size[1] for size in sizes)), widest.step)


class Pooling(NamedTuple):
    """A pooling over space: "max", "sum" or "min" of each window."""

    kind: str
    window: tuple[int, int]
    strides: tuple[int, int]


class Step(NamedTuple):
    """One operation of a program.

    Attributes:
      owner: place of the module that it is in, in the list of `record_calls`.
      macs: multiply-adds of a convolution or of a product with parameters.
      field: what its first output depends on; None for a constant.
      shape: of its first output.
      pooling: what it pools, None for other operations.
      function: what else it is that has no parameters, such as "relu", "add" or "global average pool"; None for parts
        of layers.
      inputs: places, in the list of steps, of the operations whose results it takes; `IMAGE` for the images.
    """

    owner: int
    macs: int
    field: Field | None
    shape: tuple[int, ...]
    pooling: Pooling | None
    function: str | None
    inputs: frozenset[int]


class _Value(NamedTuple):
    """What is known of a value: its field, and the steps that it comes from."""

    field: Field | None
    sources: frozenset[int] = frozenset()


def read_program(jaxpr: Any, images: Field) -> list[Step]:
    """Return the operations of a forward pass in order, those of nested programs included.

    Args:
      jaxpr: a program whose last input are images [batch, height, width, ...] and whose other inputs are parameters;
        traced inside `record_calls`, so that it says which module an operation is in.
      images: `PIXEL`, or `WHOLE` for what has no height and width.
    """
    steps: list[Step] = []
    parameters = [_Value(PARAMETER)] * (len(jaxpr.invars) - 1)
    _walk(jaxpr, [*parameters, _Value(images, frozenset([IMAGE]))], steps)
    # A function that marks its operations is its last one.
    for place, (step, following) in enumerate(itertools.pairwise(steps)):
        if step.function in MARKED and (step.function, step.owner) == (following.function, following.owner):
            steps[place] = step._replace(function=None)
    return steps


def _walk(jaxpr: Any, values: Sequence[_Value], steps: list[Step], owner: int = 0, times: int = 1) -> list[_Value]:
    """Append the steps of a program in order, those of nested programs included, and return its outputs.

    Args:
      jaxpr: the program.
      values: its inputs.
      steps: the list to append to.
      owner: the module it belongs to.
      times: how often it runs.
    """
    known: dict[Any, _Value] = dict(zip(jaxpr.invars, values, strict=True))

    def look_up(variable: Any) -> _Value:
        return _Value(None) if hasattr(variable, "val") else known.get(variable, _Value(None))

    for equation in jaxpr.eqns:
        inputs = [look_up(variable) for variable in equation.invars]
        fields = [value.field for value in inputs]
        stack = str(equation.source_info.name_stack)
        scopes = SCOPE.findall(stack)
        place = int(scopes[-1]) if scopes else owner
        output = _field(equation, fields)
        sources = frozenset[int]().union(*(v.sources for v in inputs if v.field is not None and v.field.image))
        function = _function(equation, fields)
        # A module's name stands behind the marks of what it is called by.
        marks = LAYER.findall(stack.rpartition("module@")[2])
        outputs = [output] * len(equation.outvars)
        if function is None or not _nested(equation):
            for nested in _nested(equation):
                runs = times * (equation.params["length"] if equation.primitive.name == "scan" else 1)
                # What a branch or a loop takes comes after what decides over it.
                inner = _walk(nested, inputs[len(inputs) - len(nested.invars) :], steps, place, runs)
                if len(inner) == len(outputs):
                    outputs = [value.field for value in inner]
                    sources = inner[0].sources if inner else sources
        number = len(steps)
        known.update(
            (variable, _Value(field, frozenset([number])))
            for variable, field in zip(equation.outvars, outputs, strict=True)
        )
        shape = tuple(equation.outvars[0].aval.shape) if equation.outvars else ()
        field = outputs[0] if outputs else None
        function = marks[-1] if marks else function
        macs = times * _macs(equation, fields)
        steps.append(Step(place, macs, field, shape, _pooling(equation), function, sources))
    return [look_up(variable) for variable in jaxpr.outvars]


def _function(equation: Any, inputs: Sequence[Field | None]) -> str | None:
    """Return what layer without parameters an operation is, None where it is no layer or a pooling of windows."""
    name, params = equation.primitive.name, equation.params
    called = str(params.get("name", "")) if _nested(equation) else name
    shapes = [
        tuple(variable.aval.shape)
        for variable, field in zip(equation.invars, inputs, strict=True)
        if field is not None and field.image
    ]
    if not shapes or not equation.outvars:
        return None
    if called in ACTIVATIONS:
        return ACTIVATIONS[called]
    after = tuple(equation.outvars[0].aval.shape)
    if name in ("add", "add_any") and len(shapes) == 2 and shapes[0] == shapes[1] and len(after) > 1:
        return "add"
    # What squeeze-and-excitation multiplies the maps by has one place for all of theirs.
    if name == "mul" and len(shapes) == 2 and shapes[0] != shapes[1]:
        return "scale"
    if name == "concatenate" and len(shapes) > 1 and params["dimension"] == len(after) - 1 and len(after) > 1:
        return "concatenate"
    if name in ("reduce_sum", "reduce_max") and tuple(params["axes"]) == (1, 2) and len(shapes[0]) == 4:
        return f"global {'average' if name == 'reduce_sum' else 'max'} pool"
    if name == "reshape" and len(shapes[0]) == 4 and len(after) == 2 and math.prod(shapes[0][1:3]) > 1:
        return "flatten"
    return None


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
    # Only one of several branches runs: the first stands for all.
    return nested[:1]


def _macs(equation: Any, inputs: Sequence[Field | None]) -> int:
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


def _pooling(equation: Any) -> Pooling | None:
    """Return the pooling over space that an operation is, None for other operations."""
    kind = equation.primitive.name.rpartition("window_")[2]
    windows = _windows(equation)
    if kind not in ("max", "sum", "min") or windows is None or windows[0] == (1, 1):
        return None
    return Pooling(kind, *windows)


def _windows(equation: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return window and strides of a pooling, of XLA's or of ours; None for other operations."""
    name, params = equation.primitive.name, equation.params
    if name in ("window_max", "window_sum"):
        return params["window"], params["strides"]
    if not name.startswith("reduce_window") or len(params["window_dimensions"]) != 4:
        return None
    return tuple(params["window_dimensions"][1:3]), tuple(params["window_strides"][1:3])


def _field(equation: Any, inputs: Sequence[Field | None]) -> Field | None:
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
