"""Operations that each backend computes in the way that suits it, with derivatives of any order."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir, xla

_WRITTEN_OUT = contextvars.ContextVar("cnnjax_written_out", default=False)


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Trace operations of ours in `jax.lax`, for tools that know its primitives alone.

    Functions that were traced before are to be traced anew: give these tools functions that nothing has called yet.
    """
    token = _WRITTEN_OUT.set(True)
    try:
        yield
    finally:
        _WRITTEN_OUT.reset(token)


def is_written_out() -> bool:
    """Return whether operations are traced for other tools, see `written_out`."""
    return _WRITTEN_OUT.get()


class _Operation(Primitive):
    """A primitive that is traced as operations of `jax.lax` within `written_out`."""

    def __init__(self, name: str, plain: Callable[..., Any]) -> None:
        super().__init__(name)
        self.plain = plain

    def bind(self, *args: Any, **params: Any) -> Any:
        """Return the result of the operation."""
        return self.plain(*args, **params) if _WRITTEN_OUT.get() else super().bind(*args, **params)


def operation(
    name: str,
    native: Callable[..., Any],
    cpu: Callable[..., Any],
    abstract: Callable[..., Any],
    plain: Callable[..., Any] | None = None,
    *,
    gpu: Callable[..., Any] | None = None,
    gpu_if: Callable[..., bool] | None = None,
) -> Any:
    """Return a primitive that lowers to ``native``, on CPU to ``cpu``, and on GPUs to ``gpu`` if there is one.

    Args:
      name: how traced programs call it.
      native, cpu, gpu: (*arrays, **parameters) -> array.
      abstract: the same of abstract arrays.
      gpu_if: (*arrays, **parameters) -> whether ``gpu`` is for these; GPUs take ``native`` for others. None: for all.
      plain: what it is within `written_out`; None is ``native``.
    """
    primitive = _Operation(name, plain or native)

    def divided(form: Callable[..., Any], *arrays: Any, **params: Any) -> Any:
        if not divided_explicitly(*arrays):
            return form(*arrays, **params)
        # XLA divides what a form of ours does between devices; the type of the result is that of the native operation.
        sharding = abstract(*map(jax.typeof, arrays), **params).sharding
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            return jax.sharding.auto_axes(functools.partial(form, **params), out_sharding=sharding)(*arrays)

    # As JAX's own operations are called: compiled under `jax.disable_jit` too, and reporting NaNs by its name.
    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)
    forms: dict[str | None, Callable[..., Any]] = {None: native, "cpu": functools.partial(divided, cpu)}
    if gpu is not None:

        def on_gpu(*arrays: Any, **params: Any) -> Any:
            if gpu_if is not None and not gpu_if(*arrays, **params):
                return native(*arrays, **params)
            return divided(gpu, *arrays, **params)

        forms |= dict.fromkeys(("cuda", "rocm"), on_gpu)
    for platform, form in forms.items():
        mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False), platform=platform)
    return primitive


def divided_explicitly(*arrays: Any) -> bool:
    """Return whether a mesh with explicit axes, whose division between devices is in the types, has the arrays."""
    return any(jax.typeof(array).sharding.mesh.explicit_axes for array in arrays)


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Mark arrays as varying over the same manual axes of a mesh, as operations under ``shard_map`` have to be."""
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying)
    return tuple(
        lax.pcast(array, tuple(union - own), to="varying") if union - own else array
        for array, own in zip(arrays, varying, strict=True)
    )


def type_of(array: Any) -> Any:
    """Return the abstract array of an array; of one that is abstract, itself."""
    return array if isinstance(array, jax.core.ShapedArray) else jax.typeof(array)


def shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Return shape and type alone, and how explicit axes of a mesh divide it."""
    kind = type_of(array)
    return jax.ShapeDtypeStruct(
        kind.shape, kind.dtype, sharding=kind.sharding if kind.sharding.mesh.explicit_axes else None
    )


def shaped_as(example: Any, out: jax.ShapeDtypeStruct) -> Any:
    """Return the abstract array of a shape, type and division that varies over the same axes as an example."""
    sharding = example.sharding if out.sharding is None else out.sharding
    return example.update(shape=out.shape, dtype=out.dtype, sharding=sharding, weak_type=False)


def shaped_like(example: jax.Array, shape: tuple[int, ...]) -> Any:
    """Return the abstract array of a shape that varies over the same axes as an example.

    Under ``shard_map``, what a function linear in an array of another kind is transposed to would sum over the devices.
    """
    return jax.typeof(example).update(shape=shape, weak_type=False)


def undivided(example: jax.Array, shape: tuple[int, ...]) -> Any:
    """Return the abstract array of a shape, whole on each device of explicit axes, that else is `shaped_like`."""
    kind = type_of(example)
    if not kind.sharding.mesh.explicit_axes:
        return kind.update(shape=shape, weak_type=False)
    whole = jax.NamedSharding(kind.sharding.mesh, jax.P(*(None,) * len(shape)))
    return kind.update(shape=shape, sharding=whole, weak_type=False)


def map_natively(native: Callable[..., Any], arrays: Any, dims: Any, params: Any) -> tuple[Any, int]:
    """Map what an operation lowers to: a merged axis may be divided in no way that a type can say."""
    return jax.vmap(functools.partial(native, **params), dims)(*arrays), 0


def map_over_batch(primitive: Any, native: Callable[..., Any]) -> None:
    """Let ``vmap`` of an operation whose arrays all have the batch in front be the operation on a larger batch."""

    def rule(arrays: Any, dims: Any, **params: Any) -> tuple[jax.Array, int]:
        if divided_explicitly(*arrays):
            return map_natively(native, arrays, dims, params)
        size = next(array.shape[dim] for array, dim in zip(arrays, dims, strict=True) if dim is not None)
        front = [
            jnp.broadcast_to(array[None], (size, *array.shape)) if dim is None else jnp.moveaxis(array, dim, 0)
            for array, dim in zip(arrays, dims, strict=True)
        ]
        out = primitive.bind(*(array.reshape(-1, *array.shape[2:]) for array in front), **params)
        return out.reshape(size, -1, *out.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule
