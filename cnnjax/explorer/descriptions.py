"""What a layer is to a reader: its title, the sizes of its window, and plain data from which the page computes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# Names of functions and operations as readers know them.
TITLES = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "silu": "SiLU",
    "hard_silu": "hard-swish",
    "hard_swish": "hard-swish",
    "hard_sigmoid": "hard sigmoid",
    "logistic": "sigmoid",
    "gelu": "GELU",
    "elu": "ELU",
    "leaky_relu": "leaky ReLU",
    "tanh": "tanh",
    "atan": "arctan",
    "add": "add",
    "mul": "multiply",
    "sub": "subtract",
    "div": "divide",
    "max": "maximum",
}
# Which operation names a function that has no name of its own.
TELLING = ("tanh", "logistic", "erf", "exp", "max", "min", "sqrt", "atan")


@dataclasses.dataclass(frozen=True)
class Ref:
    """An array that the image decides over: a layer's values in a shape.

    Attributes:
      layer: its index.
      shape: without the batch; sizes of 1 may be missing or added.
      step: of a value on the way to the layer's own, its step; None for the layer's own.
      full: the shape it was broadcast to and is yet to be used in; empty if it was not.
    """

    layer: int
    shape: tuple[int, ...]
    step: int | None = None
    full: tuple[int, ...] = ()


@dataclasses.dataclass
class Layer:
    """One column of the page.

    Attributes:
      owner: path of the module that computes it.
      core: "kind" and what else the arithmetic needs.
      inputs: layers it is computed from, each in the shape in which it is taken.
      shape: of its values, without the batch.
      slot: where its values are in the program; -1 for the softmax that the page adds.
      path: of the module that returns its values; None if none does.
      title, detail: what it is, in a few words, and the sizes of its window.
      steps: what happens to each value of the core, in turn: {"op": name, "args": [...]}. An argument is {"core": 0}
        for the core's value, {"input": n} for that of the nth input at the same place, {"step": n} for the result of
        a step before, {"number": value}, or {"array": name} for the number of a parameter at the same place.
      arrays: name -> slot of a parameter or what was made of one, or the array itself.
      call: name and number of the function it is all of, if it is all of one.
    """

    owner: str
    core: dict[str, Any]
    inputs: list[Ref]
    shape: tuple[int, ...]
    slot: int
    path: str | None = None
    title: str = ""
    detail: str = ""
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    arrays: dict[str, int | np.ndarray] = dataclasses.field(default_factory=dict)
    call: tuple[str, int] | None = None


def layer_title(layer: Layer) -> tuple[str, str]:
    """Return what a layer is: a word that the page translates, or a function's name, and sizes behind it."""
    kind, core = layer.core["kind"], layer.core
    if kind == "conv":
        name = "conv"
        if max(core["input_dilation"]) > 1:
            name = "transposed conv"
        elif core["groups"] > 1:
            name = "depthwise conv" if core["groups"] == layer.inputs[0].shape[-1] else "grouped conv"
        return name, _window(core)
    if kind in ("pool", "reduce"):
        mean = core["op"] == "sum" and any(step["op"] == "div" for step in layer.steps)
        name = "average" if mean else core["op"]
        if kind == "pool":
            return f"{name} pool", _window(core)
        whole = sorted(core["axes"]) == [0, 1] and len(layer.inputs[0].shape) == 3
        return f"global {name}" if whole else name, ""
    if kind == "elementwise":
        if layer.call is not None:
            return TITLES.get(layer.call[0], layer.call[0].replace("_", " ")), ""
        ops = [step["op"] for step in layer.steps]
        name = next((op for op in TELLING if op in ops), ops[0])
        return TITLES.get(name, name), ""
    return str(core.get("name", kind)).replace("_", " "), ""


def _window(core: Mapping[str, Any]) -> str:
    strides = "" if set(core["strides"]) == {1} else f"/{core['strides'][0]}"
    return "x".join(map(str, core["window"])) + strides


def describe_layer(layer: Layer, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return a layer as data for the page.

    Args:
      layer: the layer.
      shapes: of its arrays.
    """
    return {
        "owner": layer.owner,
        "path": layer.path,
        "title": layer.title,
        "detail": layer.detail,
        "core": jax.tree.map(_plain, layer.core),
        "inputs": [{"layer": ref.layer, "shape": list(ref.shape)} for ref in layer.inputs],
        "shape": list(layer.shape),
        "steps": layer.steps,
        "arrays": {name: list(shape) for name, shape in shapes.items()},
    }


def _plain(leaf: Any) -> str | int | float:
    return leaf if isinstance(leaf, str | float) else int(leaf)
