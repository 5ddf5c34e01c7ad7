"""Operations that each backend computes in the way that suits it, with derivatives of any order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def operation(name: str, native: Callable[..., Any], cpu: Callable[..., Any], abstract: Callable[..., Any]) -> Any:
    """Return a primitive that lowers to ``native``, and on CPU to ``cpu``.

    Args:
      name: how traced programs call it.
      native, cpu: (*arrays, **parameters) -> array.
      abstract: the same of abstract arrays.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(**params: Any) -> Any:
        return jax.jit(functools.partial(primitive.bind, **params))

    primitive.def_impl(lambda *arrays, **params: compiled(**params)(*arrays))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return primitive


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Mark arrays as varying over the same manual axes of a mesh, as operations under ``shard_map`` have to be."""
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying)
    return tuple(
        lax.pcast(array, tuple(union - own), to="varying") if union - own else array
        for array, own in zip(arrays, varying, strict=True)
    )


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Return shape and type alone."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def shaped_like(example: jax.Array, shape: tuple[int, ...]) -> Any:
    """Return the abstract array of a shape that varies over the same axes as an example.

    Under ``shard_map``, what a function linear in an array of another kind is transposed to would sum over the devices.
    """
    return jax.typeof(example).update(shape=shape, weak_type=False)


def map_over_batch(primitive: Any) -> None:
    """Let ``vmap`` of an operation whose arrays all have the batch in front be the operation on a larger batch."""

    def rule(arrays: Any, dims: Any, **params: Any) -> tuple[jax.Array, int]:
        size = next(array.shape[dim] for array, dim in zip(arrays, dims, strict=True) if dim is not None)
        front = [
            jnp.broadcast_to(array[None], (size, *array.shape)) if dim is None else jnp.moveaxis(array, dim, 0)
            for array, dim in zip(arrays, dims, strict=True)
        ]
        out = primitive.bind(*(array.reshape(-1, *array.shape[2:]) for array in front), **params)
        return out.reshape(size, -1, *out.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule
