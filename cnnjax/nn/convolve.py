"""Convolution as an operation that each backend computes in the way that suits it.

Three bilinear operations, the convolution and its two gradients, are closed under transposition: each is linear in each
of its arguments, and transposing one in an argument gives another of the three. So derivatives of any order and in both
modes need no more than these. On GPU and TPU each lowers to the one native convolution, exactly as `jax.lax` writes it,
but for dilated images and kernels on GPUs, see `cnnjax.nn.conv_gpu`; on CPU, to what `cnnjax.nn.conv_cpu` finds fastest
for the shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching

from cnnjax.nn import conv_cpu, conv_gpu
from cnnjax.nn.operation import (
    divided_explicitly,
    map_natively,
    operation,
    shape_of,
    shaped_as,
    shaped_like,
    undivided,
    vary_alike,
)
from cnnjax.nn.slices import Geometry

Padding = str | Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolve. A drop-in for ``jax.lax.conv_general_dilated`` in the layout that Flax uses, channels last.

    Same results, with all derivatives, to rounding. Another layout, an element type for the result, integers and
    symbolic sizes go to ``jax.lax`` as they are.

    Args:
      lhs: float[batch, spatial..., channels].
      rhs: float[window..., channels / groups, features].
      window_strides, padding, lhs_dilation, rhs_dilation, feature_group_count, precision: as there.
      dimension_numbers: as there.
    Returns:
      float[batch, spatial..., features].
    Raises:
      ValueError: the shapes do not fit, or ``padding`` is a name where images are dilated.
    """
    rank = lhs.ndim - 2
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = preferred_element_type in (None, lhs.dtype) and jnp.issubdtype(lhs.dtype, jnp.floating)
    # A program of `jax.export` may have symbolic sizes, about which nothing is known that could choose a form.
    plain &= all(isinstance(size, int) for size in lhs.shape[1:-1])
    if not plain or lhs.dtype != rhs.dtype or numbers != _channels_last(rank) or 0 in (*lhs.shape, *rhs.shape):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    input_dilation = tuple(lhs_dilation or (1,) * rank)
    kernel_dilation = tuple(rhs_dilation or (1,) * rank)
    if isinstance(padding, str):
        if max(input_dilation) > 1:
            raise ValueError(f"padding of dilated images must be pairs of numbers, got {padding!r}")
        window = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:-2], kernel_dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], window, window_strides, padding)
    params: dict[str, Any] = {
        "window_strides": tuple(map(int, window_strides)),
        "padding": tuple((int(low), int(high)) for low, high in padding),
        "lhs_dilation": tuple(map(int, input_dilation)),
        "rhs_dilation": tuple(map(int, kernel_dilation)),
        "dimension_numbers": numbers,
        "feature_group_count": int(feature_group_count),
        "precision": lax.Precision(precision) if isinstance(precision, str) else precision,
    }
    # The shape rule of jax.lax checks the arguments, and explains what does not fit.
    _result(shape_of(lhs), shape_of(rhs), jax.sharding.get_abstract_mesh(), **params)
    return convolution_p.bind(*vary_alike(lhs, rhs), **params)


def conv_transpose(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    rhs_dilation: Sequence[int] | None = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolve with fractional strides. A drop-in for ``jax.lax.conv_transpose`` in the layout of Flax, channels last.

    Args:
      lhs: float[batch, spatial..., channels].
      rhs: float[window..., channels, features], or [window..., features, channels] if ``transpose_kernel``.
      strides, padding, rhs_dilation, transpose_kernel, precision: as there.
    Returns:
      float[batch, spatial..., features].
    """
    rank = lhs.ndim - 2
    dilation = tuple(rhs_dilation or (1,) * rank)
    if isinstance(padding, str):
        padding = [
            _transposed_padding((k - 1) * d + 1, s, padding)
            for k, d, s in zip(rhs.shape[:rank], dilation, strides, strict=True)
        ]
    if transpose_kernel:
        rhs = jnp.swapaxes(jnp.flip(rhs, tuple(range(rank))), -1, -2)
    return conv_general_dilated(
        lhs,
        rhs,
        (1,) * rank,
        padding,
        tuple(strides),
        dilation,
        _channels_last(rank),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _transposed_padding(window: int, stride: int, padding: str) -> tuple[int, int]:
    """Return what `jax.lax.conv_transpose` pads a dilated axis with."""
    if padding == "SAME":
        total = window + stride - 2
        low = window - 1 if stride > window - 1 else -(-total // 2)
    elif padding == "VALID":
        total = window + stride - 2 + max(window - stride, 0)
        low = window - 1
    else:
        raise ValueError(f"padding must be 'SAME', 'VALID' or pairs of numbers, got {padding!r}")
    return low, total - low


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Return images [batch, spatial..., channels] and kernels [window..., channels, features]."""
    image = (0, rank + 1, *range(1, rank + 1))
    return lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image)


def _native(images: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    """Return the convolution as `jax.lax` writes it."""
    return lax.conv_general_dilated(images, kernel, **params)


def _native_input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: tuple[int, ...], **params: Any) -> Any:
    channels = kernel.shape[-2] * params["feature_group_count"]
    images = shaped_like(cotangent, (cotangent.shape[0], *size, channels))
    return jax.linear_transpose(lambda images: _native(images, kernel, **params), images)(cotangent)[0]


def _native_kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: tuple[int, ...], **params: Any) -> Any:
    channels = images.shape[-1] // params["feature_group_count"]
    kernel = undivided(images, (*window, channels, cotangent.shape[-1]))
    return jax.linear_transpose(lambda kernel: _native(images, kernel, **params), kernel)(cotangent)[0]


def _geometry(params: dict[str, Any]) -> Geometry:
    return Geometry(
        strides=params["window_strides"],
        padding=params["padding"],
        input_dilation=params["lhs_dilation"],
        kernel_dilation=params["rhs_dilation"],
        groups=params["feature_group_count"],
        precision=params["precision"],
    )


def _cpu(images: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    return conv_cpu.convolve(images.shape, kernel.shape, images.dtype, _geometry(params))(images, kernel)


def _cpu_input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: tuple[int, ...], **params: Any) -> jax.Array:
    return conv_cpu.input_gradient(kernel.shape, size, cotangent.dtype, _geometry(params))(cotangent, kernel)


def _cpu_kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: tuple[int, ...], **params: Any) -> Any:
    form = conv_cpu.kernel_gradient(images.shape, window, images.dtype, _geometry(params))
    return form(images, cotangent)


def _is_transposed(first: Any, kernel: Any, **params: Any) -> bool:
    return conv_gpu.is_transposed(kernel.shape[:-2], _geometry(params))


def _has_gpu_gradient(images: Any, cotangent: Any, *, window: tuple[int, ...], **params: Any) -> bool:
    geometry = _geometry(params)
    return conv_gpu.is_transposed(window, geometry) or conv_gpu.has_gaps(window, geometry)


def _gpu(images: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
    return conv_gpu.transposed_convolve(images, kernel, geometry=_geometry(params))


def _gpu_input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: tuple[int, ...], **params: Any) -> jax.Array:
    del size
    return conv_gpu.transposed_input(cotangent, kernel, geometry=_geometry(params))


def _gpu_kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: tuple[int, ...], **params: Any) -> Any:
    return conv_gpu.kernel_gradient(images, cotangent, window=window, geometry=_geometry(params))


# Networks repeat their layers, and each is asked for several times while it is traced.
@functools.lru_cache(maxsize=4096)
def _result(images: jax.ShapeDtypeStruct, kernel: jax.ShapeDtypeStruct, mesh: Any, **params: Any) -> Any:
    """Return shape, type and division of a convolution within a mesh, of which the division says that it is."""
    del mesh
    return jax.eval_shape(functools.partial(_native, **params), images, kernel)


def _convolution_shape(images: Any, kernel: Any, **params: Any) -> Any:
    return shaped_as(images, _result(shape_of(images), shape_of(kernel), jax.sharding.get_abstract_mesh(), **params))


def _input_gradient_shape(
    cotangent: Any, kernel: Any, *, size: tuple[int, ...], feature_group_count: int, **_: Any
) -> Any:
    shape = (cotangent.shape[0], *size, kernel.shape[-2] * feature_group_count)
    return cotangent.update(shape=shape, weak_type=False)


def _kernel_gradient_shape(
    images: Any, cotangent: Any, *, window: tuple[int, ...], feature_group_count: int, **_: Any
) -> Any:
    return undivided(images, (*window, images.shape[-1] // feature_group_count, cotangent.shape[-1]))


# The first has the name and the parameters of the operation of jax.lax, for tools that read traced programs.
convolution_p = operation("conv_general_dilated", _native, _cpu, _convolution_shape, gpu=_gpu, gpu_if=_is_transposed)
input_gradient_p = operation(
    "conv_input_gradient",
    _native_input_gradient,
    _cpu_input_gradient,
    _input_gradient_shape,
    gpu=_gpu_input_gradient,
    gpu_if=_is_transposed,
)
kernel_gradient_p = operation(
    "conv_kernel_gradient",
    _native_kernel_gradient,
    _cpu_kernel_gradient,
    _kernel_gradient_shape,
    gpu=_gpu_kernel_gradient,
    gpu_if=_has_gpu_gradient,
)


def _input_gradient(cotangent: Any, kernel: Any, size: tuple[int, ...], **params: Any) -> Any:
    return input_gradient_p.bind(cotangent, kernel, size=size, **params)


def _kernel_gradient(images: Any, cotangent: Any, window: tuple[int, ...], **params: Any) -> Any:
    return kernel_gradient_p.bind(images, cotangent, window=window, **params)


# Each rule gets the cotangent of the result, and the two arguments, one of which it returns the cotangent of.
ad.defbilinear(
    convolution_p,
    lambda ct, images, kernel, **params: _input_gradient(ct, kernel, images.aval.shape[1:-1], **params),
    lambda ct, images, kernel, **params: _kernel_gradient(images, ct, kernel.aval.shape[:-2], **params),
)
ad.defbilinear(
    input_gradient_p,
    lambda ct, cotangent, kernel, *, size, **params: convolution_p.bind(ct, kernel, **params),
    lambda ct, cotangent, kernel, *, size, **params: _kernel_gradient(ct, cotangent, kernel.aval.shape[:-2], **params),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, images, cotangent, *, window, **params: _input_gradient(
        cotangent, ct, images.aval.shape[1:-1], **params
    ),
    lambda ct, images, cotangent, *, window, **params: convolution_p.bind(images, ct, **params),
)


def _fold(array: jax.Array, axis: int | None, into: int, size: int) -> jax.Array:
    """Return ``array`` with its mapped ``axis``, the slower one, folded into another (counted from the end)."""
    array = jnp.broadcast_to(array[None], (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
    array = jnp.moveaxis(array, 0, into - 1)
    shape = list(array.shape)
    shape[into - 1 : array.ndim + into + 1] = [shape[into - 1] * shape[into]]
    return array.reshape(shape)


def _unfold(array: jax.Array, axis: int, size: int) -> jax.Array:
    """Undo `_fold`: split ``axis`` (counted from the end) and return the mapped axis in front."""
    axis += array.ndim
    return jnp.moveaxis(array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :]), axis, 0)


def _map_batch(primitive: Any, args: Any, dims: Any, params: Any, size: int) -> tuple[jax.Array, int]:
    """Map over images alone: they are more of them."""
    images, kernel = args
    rank = images.ndim - 3
    out = primitive.bind(_fold(images, dims[0], -(rank + 2), size), kernel, **params)
    return _unfold(out, -(rank + 2), size), 0


def _map_groups(primitive: Any, args: Any, dims: Any, params: Any, size: int) -> tuple[jax.Array, int]:
    """Map over kernels: they are more groups."""
    first, second = (_fold(array, dim, -1, size) for array, dim in zip(args, dims, strict=True))
    groups = params["feature_group_count"] * size
    return _unfold(primitive.bind(first, second, **{**params, "feature_group_count": groups}), -1, size), 0


def _batch(primitive: Any, native: Any) -> None:
    def rule(args: Any, dims: Any, **params: Any) -> tuple[jax.Array, int]:
        if divided_explicitly(*args):
            return map_natively(native, args, dims, params)
        size = next(arg.shape[dim] for arg, dim in zip(args, dims, strict=True) if dim is not None)
        if primitive is not kernel_gradient_p and dims[1] is None:
            return _map_batch(primitive, args, dims, params, size)
        return _map_groups(primitive, args, dims, params, size)

    batching.primitive_batchers[primitive] = rule


for _primitive, _form in (
    (convolution_p, _native),
    (input_gradient_p, _native_input_gradient),
    (kernel_gradient_p, _native_kernel_gradient),
):
    _batch(_primitive, _form)
