"""Which layers a network's operations make up: convolutions, poolings, activations, and how each unit is made.

A layer is a core (a convolution, a pooling, a copy, ...) and the steps that follow on each value of it (a bias is
added, a sum is divided). What a core or a step takes part in is said in plain data, so that the page can do the same
arithmetic with the numbers of the network.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from cnnjax.explorer.descriptions import Layer, Ref, layer_title
from cnnjax.explorer.program import Number, Op, Operand, Program, run
from cnnjax.nn.folded import FoldedBatchNorm, PoolingBatchNorm

# Operations on each value by itself whose arithmetic the page does.
ELEMENTWISE = {
    "add", "sub", "mul", "div", "neg", "max", "min", "tanh", "logistic", "exp", "log", "log1p", "expm1", "sqrt",
    "rsqrt", "integer_pow", "pow", "abs", "sign", "square", "erf", "erfc", "clamp", "select_n", "atan", "gt", "lt",
    "ge", "le", "eq", "floor", "ceil", "round", "sin", "cos", "cbrt", "and", "or", "not", "ne",
}  # fmt: skip
# A bias, a factor or a divisor that follows a core in the same module belongs to it.
LINEAR = {"add", "sub", "mul", "div"}
SAME_VALUE = {"convert_element_type", "copy", "copy_p", "reduce_precision", "name", "pvary", "stop_gradient"}
MOVES = {
    "reshape", "transpose", "concatenate", "slice", "pad", "rev", "squeeze", "expand_dims", "gather", "split",
    "broadcast_in_dim",
}  # fmt: skip
POOLS = {
    "window_max": "max",
    "window_sum": "sum",
    "reduce_window_max": "max",
    "reduce_window_sum": "sum",
    "reduce_window_min": "min",
}
REDUCTIONS = {"reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min"}


def find_layers(program: Program, variables: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a network in the order of computation, the image first.

    Args:
      program: the network's.
      variables: the network's, for the statistics of normalisations.
    """
    return _Finder(program, variables).layers


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the batch of one image."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


def _slot(operand: Operand) -> int:
    """Return the slot of an operand that is known to have one."""
    assert isinstance(operand, int), "a number has no slot"
    return operand


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


class _Finder:
    """Goes through a program once and puts its operations together to layers."""

    def __init__(self, program: Program, variables: Mapping[str, Any]) -> None:
        self.program = program
        self.flat = {
            collection: traverse_util.flatten_dict(leaves, sep="/") for collection, leaves in variables.items()
        }
        self.uses = collections.Counter(
            operand for op in program.ops for operand in op.inputs if isinstance(operand, int)
        )
        self.uses.update(slot for slot in program.outputs if isinstance(slot, int))
        shape = _shape(program.shapes[program.image])
        self.layers = [Layer("", {"kind": "image"}, [], shape, program.image, title="image")]
        self.refs: dict[int, Ref] = {program.image: Ref(0, shape)}
        # Layers whose values others are computed from: nothing more is put into them.
        self.taken: set[int] = set()
        # The normalisation layer that a module's operations are put into.
        self.norms: dict[int, int] = {}
        for op in program.ops:
            if any(self._ref(operand) for operand in op.inputs):
                self._take(op)
        for layer in self.layers:
            if not layer.title:
                layer.title, layer.detail = layer_title(layer)
        self._name_results()

    def _name_results(self) -> None:
        """Note which layers are what a module returns: the last one in it, if the module runs once."""
        for (path, _), shape in zip(self.program.owners, self.program.returned, strict=True):
            inside = [
                number
                for number, layer in enumerate(self.layers)
                if number and (layer.owner == path or layer.owner.startswith(f"{path}/"))
            ]
            if not path or not inside or inside[-1] - inside[0] >= len(inside):
                continue
            if _shape(shape) == self.layers[inside[-1]].shape:
                self.layers[inside[-1]].path = path

    def _ref(self, operand: Operand) -> Ref | None:
        return self.refs.get(operand) if isinstance(operand, int) else None

    def _take(self, op: Op) -> None:
        refs = [ref for ref in map(self._ref, op.inputs) if ref is not None]
        out = _shape(self.program.shapes[op.outputs[0]])
        module = self.program.owners[op.owner][1]
        if _is_norm(module):
            self._norm(op, module, refs)
        elif op.name in SAME_VALUE or (op.name == "reshape" and _squeezed(refs[0].shape) == _squeezed(out)):
            self.refs[op.outputs[0]] = dataclasses.replace(refs[0], shape=out if not refs[0].full else refs[0].shape)
        elif op.name in ("squeeze", "expand_dims") and not refs[0].full:
            self.refs[op.outputs[0]] = dataclasses.replace(refs[0], shape=out)
        elif op.name == "broadcast_in_dim" and _fits(op, self.program.shapes):
            inner = _aligned(op, self.program.shapes)
            self.refs[op.outputs[0]] = dataclasses.replace(refs[0], shape=_shape(inner), full=out)
        elif op.name in ELEMENTWISE:
            self._elementwise(op)
        else:
            for slot in op.inputs:
                self._settle(op, slot)
            refs = [ref for ref in map(self._ref, op.inputs) if ref is not None]
            made = (
                self._conv(op)
                or self._dense(op)
                or self._pool(op)
                or self._reduction(op, refs)
                or (op.name in MOVES and self._move(op))
            )
            if not made:
                for slot in op.outputs:
                    self._add(op, {"kind": "other", "name": op.name}, refs, slot)

    def _add(self, op: Op, core: dict[str, Any], inputs: Sequence[Ref], slot: int | None = None, **fields: Any) -> int:
        slot = op.outputs[0] if slot is None else slot
        shape = _shape(self.program.shapes[slot])
        self.layers.append(Layer(self.program.owners[op.owner][0], core, list(inputs), shape, slot, **fields))
        self.refs[slot] = Ref(len(self.layers) - 1, shape)
        return len(self.layers) - 1

    def _settle(self, op: Op, slot: Operand, broadcast: bool = False) -> None:
        """See to it that what a new layer is computed from is the value of a layer, broadcast or not."""
        ref = self._ref(slot)
        if ref is None or not isinstance(slot, int):
            return
        layer = self.layers[ref.layer]
        if ref.step is not None and ref.step != len(layer.steps) - 1:
            # A value on the way to another one, of which a function makes more than one use.
            self._add(op, {"kind": "other", "name": layer.title or layer_title(layer)[0]}, layer.inputs, slot)
        elif ref.full and not broadcast:
            ids = np.arange(math.prod(ref.shape), dtype=np.int32)
            ids = ids.reshape((1,) * (len(ref.full) - len(ref.shape)) + ref.shape)
            arrays: dict[str, int | np.ndarray] = {"sources": np.broadcast_to(ids, ref.full)}
            start = Ref(ref.layer, ref.shape)
            self._add(op, {"kind": "move"}, [start], slot, arrays=arrays, title="broadcast")
        else:
            self.refs[slot] = dataclasses.replace(ref, step=None)
        self.taken.add(self.refs[slot].layer)

    def _norm(self, op: Op, module: nn.Module, refs: list[Ref]) -> None:
        at = self.norms.get(op.owner)
        inside = at is not None and all(ref.layer == at or ref == self.layers[at].inputs[0] for ref in refs)
        if at is None or not inside:
            path = self.program.owners[op.owner][0]
            kind = "batch_norm" if isinstance(module, nn.BatchNorm) else "layer_norm"
            core: dict[str, Any] = {"kind": kind, "epsilon": float(getattr(module, "epsilon", 1e-6))}
            arrays: dict[str, Any] = {}
            for collection, names in (("batch_stats", ("mean", "var")), ("params", ("scale", "bias"))):
                for name in names:
                    leaf = self.flat.get(collection, {}).get(f"{path}/{name}" if path else name)
                    if leaf is not None:
                        arrays[name] = np.asarray(leaf, np.float32)
            for slot in op.inputs:
                self._settle(op, slot)
            refs = [ref for ref in map(self._ref, op.inputs) if ref is not None]
            at = self.norms[op.owner] = self._add(op, core, refs[:1], arrays=arrays)
        for slot in op.outputs:
            self.refs[slot] = Ref(at, _shape(self.program.shapes[slot]))
        # What comes last in the full shape is the result.
        if math.prod(_shape(self.program.shapes[op.outputs[0]])) == math.prod(self.layers[at].inputs[0].shape):
            self.layers[at].slot = op.outputs[0]
            self.layers[at].shape = _shape(self.program.shapes[op.outputs[0]])

    def _conv(self, op: Op) -> bool:
        if op.name != "conv_general_dilated":
            return False
        images, kernel = op.inputs
        numbers = op.params["dimension_numbers"]
        if self._ref(images) is None or self._ref(kernel) is not None or op.params.get("batch_group_count", 1) != 1:
            return False
        if tuple(numbers.lhs_spec) != (0, 3, 1, 2) or tuple(numbers.rhs_spec) != (3, 2, 0, 1):
            return False
        core = {
            "kind": "conv",
            "window": self.program.shapes[_slot(kernel)][:2],
            "strides": op.params["window_strides"],
            "padding": op.params["padding"],
            "input_dilation": op.params["lhs_dilation"] or (1, 1),
            "kernel_dilation": op.params["rhs_dilation"] or (1, 1),
            "groups": op.params["feature_group_count"],
        }
        self._add(op, core, [self.refs[_slot(images)]], arrays={"kernel": kernel})
        return True

    def _dense(self, op: Op) -> bool:
        if op.name != "dot_general":
            return False
        (contracted, batch) = op.params["dimension_numbers"]
        left, right = op.inputs
        if self._ref(left) is None or self._ref(right) is not None or batch[0] or not isinstance(right, int):
            return False
        rank = len(self.program.shapes[_slot(left)])
        if (
            tuple(contracted[0]) != (rank - 1,)
            or tuple(contracted[1]) != (0,)
            or len(self.program.shapes[_slot(right)]) != 2
        ):
            return False
        self._add(op, {"kind": "dense"}, [self.refs[_slot(left)]], arrays={"kernel": right})
        return True

    def _pool(self, op: Op) -> bool:
        if op.name not in POOLS:
            return False
        params = op.params
        if op.name.startswith("reduce_window"):
            window, strides = params["window_dimensions"], params["window_strides"]
            padding, dilation = params["padding"], params["window_dilation"]
            dilated = max(params["base_dilation"]) > 1
            if len(window) != 4 or (window[0], window[3]) != (1, 1) or (strides[0], strides[3]) != (1, 1) or dilated:
                return False
            window, strides, padding, dilation = (tuple(value[1:3]) for value in (window, strides, padding, dilation))
        else:
            window, strides, padding, dilation = params["window"], params["strides"], params["padding"], (1, 1)
        core = {
            "kind": "pool",
            "op": POOLS[op.name],
            "window": window,
            "strides": strides,
            "padding": padding,
            "kernel_dilation": dilation,
        }
        self._add(op, core, [self.refs[op.inputs[0]]])  # type: ignore[index]
        return True

    def _reduction(self, op: Op, refs: list[Ref]) -> bool:
        if op.name not in REDUCTIONS:
            return False
        shape = self.program.shapes[op.inputs[0]]  # type: ignore[index]
        if len(shape) < 2 or shape[0] != 1 or 0 in op.params["axes"] or len(refs[0].shape) != len(shape) - 1:
            return False
        axes = [axis - 1 for axis in op.params["axes"]]
        self._add(op, {"kind": "reduce", "op": REDUCTIONS[op.name], "axes": axes}, refs)
        return True

    def _move(self, op: Op) -> bool:
        """Add layers whose values are copies of others: which of which is found out by moving their numbers."""
        refs = [self.refs[slot] for slot in op.inputs if self._ref(slot) is not None]  # type: ignore[index]
        inputs = list(dict.fromkeys(refs))
        starts = dict(zip(inputs, np.cumsum([0] + [math.prod(ref.shape) for ref in inputs]).tolist(), strict=False))
        operands: list[Any] = []
        for operand in op.inputs:
            ref = self._ref(operand)
            if ref is not None:
                ids = np.arange(math.prod(ref.shape), dtype=np.int32) + starts[ref]
                operands.append(ids.reshape(self.program.shapes[operand]))  # type: ignore[index]
            elif op.name == "gather" and operand is op.inputs[1]:
                if not isinstance(operand, Number):
                    operands.append(None)
                    continue
                operands.append(operand.value)
            else:
                # What is put between or around the copies comes from nowhere.
                where = () if isinstance(operand, Number) else self.program.shapes[operand]
                operands.append(np.full(where, -1, np.int32))
        if any(operand is None for operand in operands):
            found = self.program.constant(op.inputs[1])
            if found is None:
                return False
            operands[1] = found
        params = dict(op.params)
        if op.name == "gather":
            params["fill_value"] = -1
        results = run(dataclasses.replace(op, params=params), operands)
        titles = {"concatenate": "concatenate", "slice": "slice", "split": "split", "gather": "select", "pad": "pad"}
        for slot, sources in zip(op.outputs, results, strict=True):
            moved = np.asarray(sources).reshape(_shape(self.program.shapes[slot]))
            before = self.layers[inputs[0].layer]
            chained = (
                len(inputs) == len(op.outputs) == 1 and before.core["kind"] == "move" and self.uses[before.slot] == 1
            )
            if chained and before.title in ("rearrange", "flatten"):
                # A shuffle is three moves, of which only the whole has a meaning.
                known = np.asarray(before.arrays["sources"]).reshape(-1)
                before.arrays["sources"] = np.where(moved < 0, -1, known[moved])
                before.slot, before.shape = slot, moved.shape
                before.title = "rearrange" if len(moved.shape) > 1 else "flatten"
                self.refs[slot] = Ref(inputs[0].layer, before.shape)
                continue
            title = titles.get(op.name, "flatten" if len(moved.shape) == 1 else "rearrange")
            self._add(op, {"kind": "move"}, inputs, slot, arrays={"sources": moved}, title=title)
        return True

    def _elementwise(self, op: Op) -> None:
        out = _shape(self.program.shapes[op.outputs[0]])
        owner = self.program.owners[op.owner][0]
        refs = [ref for ref in map(self._ref, op.inputs) if ref is not None]
        group = self._group_for(op, refs, owner, out)
        if group is None:
            for slot in op.inputs:
                self._settle(op, slot, broadcast=True)
            refs = [ref for ref in map(self._ref, op.inputs) if ref is not None]
            group = self._add(op, {"kind": "elementwise"}, list(dict.fromkeys(refs)), call=op.call)
        layer = self.layers[group]
        layer.steps.append({"op": op.name, "args": [self._argument(layer, group, operand) for operand in op.inputs]})
        if op.name == "integer_pow":
            layer.steps[-1]["args"].append({"number": float(op.params["y"])})
        layer.slot, layer.shape = op.outputs[0], out
        self.refs[op.outputs[0]] = Ref(group, out, len(layer.steps) - 1)

    def _group_for(self, op: Op, refs: list[Ref], owner: str, out: tuple[int, ...]) -> int | None:
        """Return the layer that an operation on each value goes on, if it goes on one."""
        open_layers = {ref.layer for ref in refs if self._is_open(op, ref, owner, out)}
        if len(open_layers) != 1:
            return None
        group = open_layers.pop()
        layer = self.layers[group]
        others = [dataclasses.replace(ref, step=None) for ref in refs if ref.layer != group]
        if layer.core["kind"] != "elementwise":
            return group if not others and op.name in LINEAR and layer.core["kind"] != "other" else None
        return group if len(layer.inputs) == 1 and all(ref in layer.inputs for ref in others) else None

    def _is_open(self, op: Op, ref: Ref, owner: str, out: tuple[int, ...]) -> bool:
        layer = self.layers[ref.layer]
        if ref.layer in self.taken and op.call is None:
            return False
        if layer.owner != owner or layer.shape != out or ref.full or layer.core["kind"] in ("image", "move"):
            return False
        if layer.core["kind"] in ("batch_norm", "layer_norm", "other"):
            return False
        if (layer.core["kind"] == "elementwise" and layer.call is not None) or op.call is not None:
            # Values inside a function are used nowhere else.
            if layer.core["kind"] != "elementwise":
                return False
            return layer.call == op.call
        return self.uses[layer.slot] == 1

    def _argument(self, layer: Layer, group: int, operand: Operand) -> dict[str, Any]:
        if isinstance(operand, Number):
            return {"number": float(np.asarray(operand.value))}
        ref = self.refs.get(operand)
        if ref is None:
            first = layer.core["kind"] in ("conv", "dense") and not layer.steps
            new = "bias" if first else f"array{len(layer.arrays)}"
            name = next((name for name, slot in layer.arrays.items() if slot == operand), new)
            layer.arrays[name] = operand
            return {"array": name}
        if ref.layer == group and (ref.step is not None or layer.core["kind"] == "elementwise"):
            return {"step": ref.step}
        if ref.layer == group:
            return {"core": 0}
        return {"input": layer.inputs.index(dataclasses.replace(ref, step=None))}


def _is_norm(module: nn.Module) -> bool:
    folded = isinstance(module, FoldedBatchNorm | PoolingBatchNorm)
    return isinstance(module, nn.BatchNorm | nn.LayerNorm) and not folded


def _aligned(op: Op, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of what is broadcast, with sizes of 1 where the result has axes that it lacks."""
    result = [1] * len(op.params["shape"])
    for size, axis in zip(shapes[op.inputs[0]], op.params["broadcast_dimensions"], strict=True):  # type: ignore[index]
        result[axis] = size
    return tuple(result)


def _fits(op: Op, shapes: Sequence[tuple[int, ...]]) -> bool:
    return len(_aligned(op, shapes)) > 1 and op.params["shape"][0] == 1


def add_softmax(layers: list[Layer], shape: tuple[int, ...]) -> None:
    """Append the probabilities of the classes, which the networks leave to their users."""
    last = len(layers) - 1
    layers.append(Layer("", {"kind": "softmax"}, [Ref(last, shape)], shape, -1, title="softmax"))
