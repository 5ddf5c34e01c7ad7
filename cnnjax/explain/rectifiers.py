"""Deconvnet and guided backpropagation: gradients whose way back through rectifiers is changed.

The network's traced program is evaluated with another derivative for each max(x, 0), wherever it comes from: a function
such as ``jax.nn.relu``, a field of a network, or a user's own module. Nothing is edited. The rule for activations:

- ReLU, max(x, 0): the rule of the method;
- ReLU6, min(max(x, 0), 6): the same for its maximum; its minimum keeps its derivative, which is 0 above 6;
- sigmoid, tanh, softmax, which do not rectify, keep their derivative, as do pooling (the derivative of max pooling is
  the switches of the paper), normalisation and all else that is not named here;
- SiLU, hard-swish, GELU and other products of x with a squashed x, hard sigmoid, leaky ReLU, ELU and their kin have no
  agreed rule, and are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from cnnjax.explain.gradients import gradient_of
from cnnjax.explain.targets import Target, check_images, score_function

# Functions of jax.nn and flax.linen, by the name that traced programs carry.
REFUSED = {
    "silu": "SiLU",
    "swish": "SiLU",
    "gelu": "GELU",
    "hard_silu": "hard-swish",
    "hard_swish": "hard-swish",
    "hard_sigmoid": "hard sigmoid",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "softplus": "softplus",
    "squareplus": "squareplus",
    "mish": "Mish",
    "glu": "GLU",
}
# What marks a squashed value, and the name of x times that.
SQUASHERS = {
    "logistic": "SiLU",
    "erf": "GELU",
    "erfc": "GELU",
    "tanh": "GELU",
    "max": "hard-swish",
    "clamp": "hard-swish",
}
ELEMENTWISE = {
    "add", "sub", "mul", "div", "neg", "integer_pow", "square", "max", "min", "tanh", "logistic", "erf", "erfc",
    "clamp", "exp", "log1p", "convert_element_type", "copy", "pow",
}  # fmt: skip
# Their programs are evaluated in place; the parameter that holds the program.
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")

Rule = Callable[[jax.Array], jax.Array]


class _Origin(NamedTuple):
    """Where a value comes from, element by element: the value ``root``, through ``squashers``; or it is all zeros."""

    root: int
    squashers: frozenset[str] = frozenset()
    zero: bool = False


def _rule(backward: Callable[[jax.Array, jax.Array], jax.Array]) -> Rule:
    @jax.custom_vjp
    def rectify(x: jax.Array) -> jax.Array:
        return jnp.maximum(x, jnp.zeros((), x.dtype))

    rectify.defvjp(lambda x: (rectify(x), x), lambda x, gradient: (backward(x, gradient),))
    return rectify


def _positive(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, jnp.zeros((), x.dtype))


# Zeiler and Fergus rectify what goes back; guided backpropagation also keeps ReLU's own derivative.
DECONVNET = _rule(lambda x, gradient: _positive(gradient))
GUIDED = _rule(lambda x, gradient: jnp.where(x > 0, _positive(gradient), jnp.zeros((), gradient.dtype)))


def _evaluated(jaxpr: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
    """Return what one operation of a program gives for values of all its inputs."""
    variables = {v: value for v, value in zip(equation.invars, values, strict=True) if not isinstance(v, Literal)}
    alone = jaxpr.replace(constvars=[], invars=list(variables), outvars=equation.outvars, eqns=[equation])
    return list(jax.core.eval_jaxpr(alone, (), *variables.values()))


class _Evaluation:
    """Evaluates a traced program with another rectifier."""

    def __init__(self, rule: Rule, method: str) -> None:
        self._rule = rule
        self._method = method
        self._values = 0

    def _new(self) -> _Origin:
        self._values += 1
        return _Origin(self._values)

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Return the outputs of a program for arguments."""
        return self._run(jaxpr, consts, args, [self._new() for _ in args])[0]

    def _run(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], origins: Sequence[_Origin]
    ) -> tuple[list[Any], list[_Origin]]:
        known: dict[Any, tuple[Any, _Origin]] = {}

        def read(variable: Any) -> tuple[Any, _Origin]:
            if isinstance(variable, Literal):
                # No root: a constant takes nothing from an element.
                return variable.val, _Origin(0, zero=bool(np.all(np.asarray(variable.val) == 0)))
            return known[variable]

        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            concrete = not isinstance(value, jax.core.Tracer)
            zero = concrete and np.size(value) <= 1 and not np.any(np.asarray(value, np.float32))
            known[variable] = (value, _Origin(0, zero=zero) if np.size(value) <= 1 else self._new())
        known.update(zip(jaxpr.invars, zip(args, origins, strict=True), strict=True))
        for equation in jaxpr.eqns:
            values, sources = zip(*map(read, equation.invars), strict=True) if equation.invars else ((), ())
            outputs, found = self._step(jaxpr, equation, list(values), list(sources))
            known.update(zip(equation.outvars, zip(outputs, found, strict=True), strict=True))
        pairs = [read(variable) for variable in jaxpr.outvars]
        return [value for value, _ in pairs], [origin for _, origin in pairs]

    def _step(
        self, jaxpr: Any, equation: Any, values: list[Any], origins: list[_Origin]
    ) -> tuple[list[Any], list[_Origin]]:
        name, params = equation.primitive.name, equation.params
        called = str(params.get("name", ""))
        if called in REFUSED:
            raise ValueError(self._refusal(REFUSED[called]))
        if name == "max" and any(origin.zero for origin in origins):
            place = 1 if origins[0].zero else 0
            return [self._rectified(values[place], equation)], [self._squashed(origins[place], "max")]
        nested = next((params[key] for key in CALLS if key in params and hasattr(params[key], "eqns")), None)
        if nested is not None and name not in ("scan", "while", "cond") and self._concerns(nested):
            # A closed program brings its constants; that of `jax.checkpoint` has none.
            program, consts = getattr(nested, "jaxpr", nested), getattr(nested, "consts", ())
            return self._run(program, consts, values, origins)
        if name == "scan" and self._concerns(params["jaxpr"]):
            outputs = self._scan(params, values)
        elif name == "cond" and any(map(self._concerns, params["branches"])):
            outputs = self._cond(params, values)
        elif name == "while" and self._concerns(params["body_jaxpr"]):
            raise ValueError(f"{self._method} does not go back through a rectifier in a loop of unknown length")
        else:
            outputs = _evaluated(jaxpr, equation, values)
        return outputs, [self._origin(equation, origins) for _ in outputs]

    def _rectified(self, x: jax.Array, equation: Any) -> jax.Array:
        aval = equation.outvars[0].aval
        return self._rule(jnp.broadcast_to(jnp.asarray(x, aval.dtype), aval.shape))

    def _scan(self, params: Mapping[str, Any], values: list[Any]) -> list[Any]:
        body = params["jaxpr"]
        if "num_carry" in params:
            ends = params["num_consts"], params["num_consts"] + params["num_carry"]
            consts, start, stack = values[: ends[0]], values[ends[0] : ends[1]], values[ends[1] :]
        else:  # Since JAX 0.12.
            consts, start, stack = map(list, params["ft_in"].update(values).unpack())

        def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = self.run(getattr(body, "jaxpr", body), body.consts, [*consts, *carry, *slices])
            return outputs[: len(start)], outputs[len(start) :]

        carry, stacked = jax.lax.scan(
            step,
            start,
            stack,
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*carry, *stacked]

    def _cond(self, params: Mapping[str, Any], values: list[Any]) -> list[Any]:
        def branch(program: Any) -> Any:
            return lambda *args: self.run(program.jaxpr, program.consts, args)

        found: list[Any] = jax.lax.switch(values[0], [branch(program) for program in params["branches"]], *values[1:])
        return found

    def _concerns(self, program: Any) -> bool:
        """Whether a program may hold a rectifier or something refused; all others run as they are."""
        jaxpr = getattr(program, "jaxpr", program)
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("max", *SQUASHERS) or str(equation.params.get("name", "")) in REFUSED:
                return True
            for value in equation.params.values():
                items = value if isinstance(value, tuple | list) else (value,)
                if any(hasattr(item, "eqns") and self._concerns(item) for item in items):
                    return True
        return False

    def _squashed(self, origin: _Origin, by: str) -> _Origin:
        return _Origin(origin.root, origin.squashers | {by})

    def _origin(self, equation: Any, origins: list[_Origin]) -> _Origin:
        """Return where the output of an operation comes from, and refuse x times a squashed x."""
        name = equation.primitive.name
        if name == "broadcast_in_dim" and origins[0].zero:
            return origins[0]
        if name == "convert_element_type" and origins[0].zero:
            return origins[0]
        if name not in ELEMENTWISE:
            return self._new()
        roots = {origin.root for origin in origins} - {0}
        if len(roots) > 1:
            return self._new()
        if not roots:
            return _Origin(0)
        squashers = frozenset().union(*(origin.squashers for origin in origins))
        if name == "mul" and len(origins) == 2 and all(origin.root for origin in origins):
            first, second = origins
            if bool(first.squashers) != bool(second.squashers):
                squasher = sorted(squashers, key=list(SQUASHERS).index)[0]
                raise ValueError(self._refusal(SQUASHERS[squasher]))
        if name in SQUASHERS and name != "max":
            squashers |= {name}
        return _Origin(roots.pop(), squashers)

    def _refusal(self, activation: str) -> str:
        return (
            f"{self._method} has no agreed rule for {activation}, which this network uses: it is defined for ReLU and "
            "ReLU6; take saliency, integrated_gradients or grad_cam"
        )


def _with_rule(score: Callable[[jax.Array], jax.Array], rule: Rule, method: str) -> Callable[[jax.Array], jax.Array]:
    """Return the score with another derivative of its rectifiers."""

    def changed(images: jax.Array) -> jax.Array:
        program = jax.make_jaxpr(score)(images)
        found: jax.Array = _Evaluation(rule, method).run(program.jaxpr, program.consts, [images])[0]
        return found

    return changed


def guided_backprop(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return the gradient of the score, where only positive gradients pass ReLUs, and only active ones.

    What the rule is for other activations stands at the head of this file.

    Source: Springenberg et al. 2014, arXiv:1412.6806, section 3.4 and figure 1; differs: nothing.

    Args:
      model, variables, images, target, layer, **kwargs: as in `cnnjax.explain.saliency`.
    Returns:
      float32[batch, height, width, channels].
    Raises:
      ValueError: as in `cnnjax.explain.saliency`; an activation without an agreed rule, by name.
    """
    images = check_images(images)
    score = score_function(model, variables, target, layer, kwargs)
    return gradient_of(_with_rule(score, GUIDED, "guided_backprop"))(images)


def deconvnet(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    layer: str | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return a score, or a unit of any layer, projected back to pixels through the transposed network.

    Convolutions are transposed, maxima go back to where they were (the switches), and what goes back is rectified at
    each ReLU, whether that was active or not. With ``layer`` and a channel as target, the channel's strongest
    activation is projected and all others are zero: the projections of figure 2 of the paper. What the rule is for
    other activations stands at the head of this file.

    Source: Zeiler and Fergus 2013, arXiv:1311.2901, section 2.1 and figure 1; differs: normalisation layers keep their
    derivative (the paper leaves them out of the way back), and the signal starts as 1 instead of the activation.

    Args:
      model, variables, images, target, layer, **kwargs: as in `cnnjax.explain.saliency`.
    Returns:
      float32[batch, height, width, channels].
    Raises:
      ValueError: as in `cnnjax.explain.saliency`; an activation without an agreed rule, by name.
    """
    images = check_images(images)
    score = score_function(model, variables, target, layer, kwargs)
    return gradient_of(_with_rule(score, DECONVNET, "deconvnet"))(images)
