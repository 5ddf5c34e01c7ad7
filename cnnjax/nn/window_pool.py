"""Maximum and sum of windows, as operations that each backend computes in the way that suits it.

On GPU and TPU they lower to what `jax.lax.reduce_window` and its derivatives lower to, but for the gradient of a
maximum on GPUs. XLA has no kernel for these on a CPU: the gradient of a maximum becomes index arithmetic and a scatter,
which took a third of GoogLeNet's training step. There, the maximum is taken of shifted images; its gradient goes, for
each phase of the strides, to the pixels that were the first maximum of their window.

XLA makes a scatter of that gradient on GPUs too, which adds in no fixed order, so that its bits may change from
call to call. GPUs take the CPU's gradient instead, in two kernels.

`benchmarks/convolutions.py` compares both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad

from cnnjax.nn.operation import map_over_batch, operation, shape_of, shaped_as, shaped_like, vary_alike
from cnnjax.nn.precision import sum_dtype
from cnnjax.nn.slices import Geometry, apart, fused_sum, scatter, shifted, taps_of, together

Pair = tuple[int, int]
Pads = Sequence[tuple[int, int]]
# The largest window that is taken tap by tap; larger ones are left to XLA.
MAX_TAPS = 32


def window_max(x: jax.Array, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    """Return the maximum of each window; padding never wins. Among equal maxima the first takes the gradient.

    Args:
      x: float[batch, height, width, channels].
      window, strides: height and width.
      padding: (low, high) for height and width.
    Returns:
      float[batch, out_height, out_width, channels].
    """
    if 0 in x.shape or math.prod(window) > MAX_TAPS:
        return _native_max(x, window=window, strides=strides, padding=tuple(padding))
    result: jax.Array = max_p.bind(x, **_params(window, strides, padding))
    return result


def window_sum(x: jax.Array, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    """Return the sum of each window; padding adds nothing. See `window_max`."""
    if 0 in x.shape or math.prod(window) > MAX_TAPS:
        return _native_sum(x, window=window, strides=strides, padding=tuple(padding))
    result: jax.Array = sum_p.bind(x, size=x.shape[1:3], **_params(window, strides, padding))
    return result


def _params(window: Pair, strides: Pair, padding: Pads) -> dict[str, Any]:
    (top, bottom), (left, right) = padding
    return {"window": tuple(window), "strides": tuple(strides), "padding": ((top, bottom), (left, right))}


# As XLA does it


def _native(x: jax.Array, start: float, combine: Any, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    return lax.reduce_window(x, start, combine, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def _plain(x: jax.Array, start: float, combine: Any, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    """Reduce windows of three axes, the first of batch and channels: ONNX Runtime knows no windows of four."""
    batch, height, width, channels = x.shape
    maps = x.transpose(0, 3, 1, 2).reshape(-1, height, width)
    out = lax.reduce_window(maps, start, combine, (1, *window), (1, *strides), ((0, 0), *padding))
    return out.reshape(batch, channels, *out.shape[1:]).transpose(0, 2, 3, 1)


def _plain_max(x: jax.Array, **params: Any) -> jax.Array:
    return _plain(x, -jnp.inf, lax.max, **params)


def _plain_sum(x: jax.Array, *, size: Pair | None = None, **params: Any) -> jax.Array:
    return _plain(x, 0.0, lax.add, **params)


def _native_max(x: jax.Array, **params: Any) -> jax.Array:
    return _native(x, -jnp.inf, lax.max, **params)


def _native_max_tangent(x: jax.Array, tangent: jax.Array, **params: Any) -> jax.Array:
    return jax.jvp(lambda x: _native_max(x, **params), (x,), (tangent,))[1]


def _native_max_gradient(x: jax.Array, cotangent: jax.Array, **params: Any) -> jax.Array:
    return jax.vjp(lambda x: _native_max(x, **params), x)[1](cotangent)[0]


def _native_sum(x: jax.Array, *, size: Pair | None = None, **params: Any) -> jax.Array:
    return _native(x, 0.0, lax.add, **params)


def _native_sum_gradient(cotangent: jax.Array, *, size: Pair, **params: Any) -> jax.Array:
    images = shaped_like(cotangent, (cotangent.shape[0], *size, cotangent.shape[-1]))
    return jax.linear_transpose(lambda x: _native_sum(x, **params), images)(cotangent)[0]


# On a CPU


def _geometry(strides: Pair, padding: Pads) -> Geometry:
    return Geometry(strides, tuple(padding), (1, 1), (1, 1), 1)


def _taps(x: jax.Array, window: Pair, strides: Pair, padding: Pads, fill: float) -> list[Callable[[], jax.Array]]:
    """Return how to get what each tap of the window sees at each of the output's places."""
    geometry = _geometry(strides, padding)
    out = geometry.output_size(x.shape[1:3], window)
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((a, b, 0) for a, b in padding), (0, 0, 0)])
    return [functools.partial(shifted, padded, tap, out, geometry) for tap in taps_of(window)]


def _max(x: jax.Array, *, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    taps = _taps(x, window, strides, padding, -jnp.inf)
    return apart(lambda: functools.reduce(jnp.maximum, (tap() for tap in taps)))


def _max_tangent(x: jax.Array, tangent: jax.Array, *, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    taps = _taps(x, window, strides, padding, -jnp.inf)
    moves = _taps(tangent, window, strides, padding, 0.0)

    def choose() -> jax.Array:
        best, chosen = taps[0](), moves[0]()
        for tap, move in zip(taps[1:], moves[1:], strict=True):
            seen = tap()
            chosen = jnp.where(seen > best, move(), chosen)
            best = jnp.maximum(best, seen)
        return chosen

    return apart(choose)


def _max_gradient(
    x: jax.Array,
    cotangent: jax.Array,
    *,
    window: Pair,
    strides: Pair,
    padding: Pads,
    once: Callable[[Callable[[], jax.Array]], jax.Array] = apart,
) -> jax.Array:
    """Return the gradient of a maximum; ``once`` computes where each window's maximum is."""
    params: dict[str, Any] = {"window": window, "strides": strides, "padding": padding}
    taps, best = _taps(x, fill=-jnp.inf, **params), _max(x, **params)

    # The compiler makes branches of selections, and numbers that pass branches are taken one by one. So this does
    # arithmetic: a tap that is not the maximum (nor its NaN) gets a number beyond all taps'.
    def win() -> jax.Array:
        numbers = []
        for number, tap in enumerate(taps):
            seen = tap()
            numbers.append(number + MAX_TAPS * ((seen != best) & (seen == seen)).astype(jnp.int32))
        return functools.reduce(jnp.minimum, numbers)

    winner = once(win)
    number = {tap: index for index, tap in enumerate(taps_of(window))}
    dtype = jnp.dtype(jnp.float32 if jnp.finfo(cotangent.dtype).bits < 32 else cotangent.dtype)
    bits = jnp.dtype(f"int{8 * dtype.itemsize}")

    def product(parts: list[jax.Array], tap: tuple[int, ...]) -> jax.Array:
        part, won = parts
        mask = -(won == number[tap]).astype(bits)
        return lax.bitcast_convert_type(lax.bitcast_convert_type(part, bits) & mask, dtype)

    arrays = [cotangent.astype(dtype), winner]
    geometry = _geometry(strides, padding)
    return scatter(arrays, window, x.shape[1:3], geometry, product, x.shape[-1]).astype(x.dtype)


def _max_gradient_on_gpu(x: jax.Array, cotangent: jax.Array, **params: Any) -> jax.Array:
    """Return the gradient of a maximum in two kernels: the places of the maxima, and what reaches each pixel."""
    with together():
        return _max_gradient(x, cotangent, once=lambda win: lax.optimization_barrier(win().astype(jnp.int8)), **params)


def _sum(x: jax.Array, *, size: Pair, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    return fused_sum(_taps(x.astype(sum_dtype(x.dtype)), window, strides, padding, 0.0)).astype(x.dtype)


def _sum_gradient(cotangent: jax.Array, *, size: Pair, window: Pair, strides: Pair, padding: Pads) -> jax.Array:
    arrays, geometry = [cotangent.astype(sum_dtype(cotangent.dtype))], _geometry(strides, padding)
    images = scatter(arrays, window, size, geometry, lambda parts, tap: parts[0], cotangent.shape[-1])
    return images.astype(cotangent.dtype)


# The operations


def _pooled_shape(x: Any, *_: Any, window: Pair, strides: Pair, padding: Pads, size: Pair | None = None) -> Any:
    del size
    out = jax.eval_shape(lambda x: _native_max(x, window=window, strides=strides, padding=padding), shape_of(x))
    return shaped_as(x, out)


max_p = operation("window_max", _native_max, _max, _pooled_shape, _plain_max)
max_tangent_p = operation("window_max_tangent", _native_max_tangent, _max_tangent, _pooled_shape)
max_gradient_p = operation(
    "window_max_gradient",
    _native_max_gradient,
    _max_gradient,
    lambda x, cotangent, **_: x.update(weak_type=False),
    gpu=_max_gradient_on_gpu,
)
sum_p = operation("window_sum", _native_sum, _sum, _pooled_shape, _plain_sum)
sum_gradient_p = operation(
    "window_sum_gradient",
    _native_sum_gradient,
    _sum_gradient,
    lambda ct, *, size, **_: ct.update(shape=(ct.shape[0], *size, ct.shape[-1]), weak_type=False),
)


def _max_jvp(primals: Any, tangents: Any, **params: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return max_p.bind(x, **params), max_tangent_p.bind(*vary_alike(x, tangent), **params)


def _linear_in_second(primitive: Any) -> Any:
    """Return the forward derivative of an operation that is linear in its second array, and flat in the first."""

    def rule(primals: Any, tangents: Any, **params: Any) -> tuple[jax.Array, jax.Array]:
        (x, linear), (_, tangent) = primals, tangents
        out = primitive.bind(x, linear, **params)
        if type(tangent) is ad.Zero:
            return out, jnp.zeros_like(out)
        return out, primitive.bind(*vary_alike(x, tangent), **params)

    return rule


ad.primitive_jvps[max_p] = _max_jvp
# The tangent and the gradient of a maximum are each other's transpose.
for _primitive, _transposed in ((max_tangent_p, max_gradient_p), (max_gradient_p, max_tangent_p)):
    ad.primitive_jvps[_primitive] = _linear_in_second(_primitive)
    ad.primitive_transposes[_primitive] = lambda ct, x, linear, transposed=_transposed, **params: [
        None,
        transposed.bind(*vary_alike(x, ct), **params),
    ]
ad.deflinear2(sum_p, lambda ct, x, **params: [sum_gradient_p.bind(ct, **params)])
ad.deflinear2(sum_gradient_p, lambda ct, cotangent, **params: [sum_p.bind(ct, **params)])
for _primitive, _form in (
    (max_p, _native_max),
    (max_tangent_p, _native_max_tangent),
    (max_gradient_p, _native_max_gradient),
    (sum_p, _native_sum),
    (sum_gradient_p, _native_sum_gradient),
):
    map_over_batch(_primitive, _form)
