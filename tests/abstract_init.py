"""Shapes of whole networks in half the time: each kind of block is traced once, and initialisers are not."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp

BLOCK = re.compile(r"block\d+")
# What blocks gave when they were traced: the types of their outputs and variables.
KNOWN: dict[Any, tuple[Any, Any]] = {}


def init_with_output(model: nn.Module, images: jax.ShapeDtypeStruct) -> tuple[Any, Any]:
    """Return the types of what ``model.init_with_output`` returns."""
    with _known_blocks(), _unfilled_parameters():
        return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


@contextlib.contextmanager
def _known_blocks() -> Iterator[None]:
    """Within this, a block that initialises as one did before is not traced again.

    What a block creates and returns depends on its fields and on what it is called with; tests that run whole networks
    would not pass otherwise.
    """

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not BLOCK.fullmatch(module.name or ""):
            return following(*args, **kwargs)
        key = _key(module, args, kwargs)
        if key not in KNOWN:
            outputs = following(*args, **kwargs)
            KNOWN[key] = jax.tree.map(jax.typeof, (outputs, dict(module.variables)))
            return outputs
        outputs, variables = jax.tree.map(lambda kind: jax.lax.full(kind.shape, 0, kind.dtype), KNOWN[key])
        for collection, tree in variables.items():
            for name, value in tree.items():
                module.scope.put_variable(collection, name, value)
        return outputs

    with nn.intercept_methods(intercept):
        yield


def _key(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Return what decides the shapes of a block: its class, its fields, and the types of what it is called with."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    leaves, structure = jax.tree.flatten((args, kwargs))
    return type(module), *fields.items(), *map(jax.typeof, leaves), structure


@contextlib.contextmanager
def _unfilled_parameters() -> Iterator[None]:
    """Within this, parameters are zeros of the shape and type that their initialiser is called with."""
    param = flax.core.Scope.param

    def unfilled(scope: Any, name: str, init_fn: Any, *args: Any, **kwargs: Any) -> Any:
        match args:
            case (tuple() as shape,):
                return param(scope, name, lambda _: jax.lax.full(shape, 0, jnp.float32), **kwargs)
            case (tuple() as shape, dtype):
                return param(scope, name, lambda _: jax.lax.full(shape, 0, dtype), **kwargs)
        return param(scope, name, init_fn, *args, **kwargs)

    with mock.patch.object(flax.core.Scope, "param", unfilled):
        yield
