"""A network's forward pass as one flat list of operations, whose intermediate values can all be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.models.calls import SCOPE, record_calls

# Operations that only run another program, and where they keep it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


@dataclasses.dataclass(frozen=True)
class Number:
    """An operand that is written in the program."""

    value: Any


Operand = int | Number


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
      primitive: JAX's primitive.
      params: of the primitive.
      inputs: slots of the values it takes, or numbers.
      outputs: slots of the values it gives.
      owner: index into `Program.owners` of the innermost module that runs it.
      call: name and number of the outermost named function of that module that runs it, such as ("relu", 3).
    """

    primitive: Any
    params: Mapping[str, Any]
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    owner: int
    call: tuple[str, int] | None

    @property
    def name(self) -> str:
        """Return the primitive's name."""
        return str(self.primitive.name)


class Program:
    """The traced forward pass of a network for one image, with calls of functions taken apart.

    Every value has a slot, a number. Works for any ``flax.linen`` module.

    Attributes:
      ops: in the order of computation.
      owners: path and module of everything that runs.
      returned: shape of what each of these returned.
      shapes: of the value in each slot.
      image: the image's slot.
      outputs: slots of what the network returns, flattened.

    Args:
      model: the network.
      variables: its variables, or their shapes.
      image_shape: height, width and channels.
    """

    def __init__(self, model: nn.Module, variables: Mapping[str, Any], image_shape: Sequence[int]) -> None:
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        with record_calls() as calls:
            closed = jax.make_jaxpr(lambda variables, image: model.apply(variables, image))(variables, image)
        self.owners = [(call.path, call.module) for call in calls]
        self.returned = [call.output_shape for call in calls]
        self.ops: list[Op] = []
        self.shapes: list[tuple[int, ...]] = []
        self._constants: dict[int, Any] = {}
        self._instances = 0
        arguments = [self._new(variable) for variable in closed.jaxpr.invars]
        self._variables, self.image = arguments[:-1], arguments[-1]
        self.outputs = self._walk(closed.jaxpr, closed.consts, arguments, 0, None)

    def evaluate(self, variables: Mapping[str, Any], image: jax.Array, wanted: Sequence[int]) -> list[jax.Array]:
        """Return the values in the slots ``wanted``. Pure: to be compiled with ``jax.jit``.

        Args:
          variables: of the network.
          image: float32[1, height, width, channels].
          wanted: slots.
        """
        values: dict[int, Any] = {self.image: image, **self._constants}
        values |= dict(zip(self._variables, jax.tree.leaves(variables), strict=True))
        for op in self.ops:
            operands = [operand.value if isinstance(operand, Number) else values[operand] for operand in op.inputs]
            values |= dict(zip(op.outputs, run(op, operands), strict=True))
        return [jnp.asarray(values[slot]) for slot in wanted]

    def constant(self, operand: Operand) -> Any:
        """Return an operand's value where no variable and no image decides over it, and None elsewhere."""
        if isinstance(operand, Number):
            return operand.value
        if operand in self._constants:
            return self._constants[operand]
        made_by = next((op for op in self.ops if operand in op.outputs), None)
        operands = [self.constant(part) for part in made_by.inputs] if made_by else [None]
        if made_by is None or any(part is None for part in operands):
            return None
        return run(made_by, operands)[made_by.outputs.index(operand)]

    def _new(self, variable: Any) -> int:
        self.shapes.append(tuple(variable.aval.shape))
        return len(self.shapes) - 1

    def _walk(
        self,
        jaxpr: Any,
        constants: Sequence[Any],
        arguments: Sequence[Operand],
        owner: int,
        call: tuple[str, int] | None,
    ) -> list[Any]:
        """Append the operations of a program, and return where its results are."""
        known: dict[Any, Operand] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            known[variable] = self._new(variable)
            self._constants[len(self.shapes) - 1] = value

        def find(variable: Any) -> Operand:
            return Number(variable.val) if hasattr(variable, "val") else known[variable]

        for equation in jaxpr.eqns:
            inputs = tuple(find(variable) for variable in equation.invars)
            scopes = SCOPE.findall(str(equation.source_info.name_stack))
            place = int(scopes[-1]) if scopes else owner
            # A function that calls modules is none of the module that it was called by.
            inside = call if place == owner else None
            name = equation.primitive.name
            nested = equation.params.get(CALLS[name]) if name in CALLS else None
            if nested is None:
                outputs = tuple(self._new(variable) for variable in equation.outvars)
                self.ops.append(Op(equation.primitive, equation.params, inputs, outputs, place, inside))
                known.update(zip(equation.outvars, outputs, strict=True))
                continue
            if inside is None and "name" in equation.params:
                self._instances += 1
                inside = (str(equation.params["name"]), self._instances)
            program, values = (nested.jaxpr, nested.consts) if hasattr(nested, "jaxpr") else (nested, ())
            results = self._walk(program, values, inputs, place, inside)
            known.update(zip(equation.outvars, results, strict=True))
        return [find(variable) for variable in jaxpr.outvars]


def run(op: Op, operands: Sequence[Any]) -> Sequence[Any]:
    """Return what an operation gives for these operands."""
    results = op.primitive.bind(*operands, **op.params)
    return results if op.primitive.multiple_results else [results]
