"""Pooling layers' functions, with the padding and rounding rules that published networks differ in."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.nn.precision import sum_dtype
from cnnjax.nn.window_pool import window_max, window_sum

Padding = str | int | Sequence[tuple[int, int]]


def _pads(
    shape: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: Padding, ceil_mode: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (declared padding, padding in effect) a spatial dimension; ceil_mode only adds to the second."""
    if isinstance(padding, str):
        declared = list(lax.padtype_to_pads(shape, window, strides, padding))
    elif isinstance(padding, int):
        declared = [(padding, padding)] * len(shape)
    else:
        declared = [tuple(pair) for pair in padding]  # type: ignore[misc]
    effective = []
    for size, k, s, (low, high) in zip(shape, window, strides, declared, strict=True):
        padded = size + low + high
        # Rounding up asks only for a window that starts in the input and is not a whole stride too long.
        if padded < (max(k - s + 1, 1) if ceil_mode else k):
            raise ValueError(
                f"pooling window {tuple(window)} does not fit an input of size {tuple(shape)} with padding {declared}; "
                "use larger images"
            )
        extra = 0
        if ceil_mode:
            outputs = -(-(padded - k) // s) + 1
            # PyTorch drops a last window that would start in the padding on the right.
            if (outputs - 1) * s >= size + low:
                outputs -= 1
            extra = max(0, (outputs - 1) * s + k - padded)
        effective.append((low, high + extra))
    return declared, effective


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the maximum of each window; padding never wins.

    Args:
      x: float[batch, height, width, channels].
      window: height and width of the window.
      strides: step between windows; None means the window's size.
      padding: "SAME" (TensorFlow's rule), "VALID", one number for all sides (PyTorch's rule), or
        ((top, bottom), (left, right)).
      ceil_mode: keep a last window that only partly covers the input, as PyTorch's argument of that name.
    Returns:
      float[batch, out_height, out_width, channels].
    Raises:
      ValueError: the window is larger than the padded input (in ceil_mode: by a whole stride or more).
    """
    window = _pair(window)
    strides = window if strides is None else _pair(strides)
    _, pads = _pads(x.shape[1:3], window, strides, padding, ceil_mode)
    return window_max(x, window, strides, pads)


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    *,
    count_include_pad: bool = True,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the mean of each window.

    Args:
      x: float[batch, height, width, channels].
      window: height and width of the window.
      strides: step between windows; None means the window's size.
      padding: as in `max_pool`.
      count_include_pad: divide by the window's size, padding included (PyTorch's default); otherwise by the number of
        real values under the window (TensorFlow's rule).
      ceil_mode: as in `max_pool`; what it adds on the right never counts, as in PyTorch.
    Returns:
      float[batch, out_height, out_width, channels], in the type of ``x``, summed in float32 at least.
    Raises:
      ValueError: the window is larger than the padded input.
    """
    window = _pair(window)
    strides = window if strides is None else _pair(strides)
    declared, pads = _pads(x.shape[1:3], window, strides, padding, ceil_mode)
    dtype = sum_dtype(x.dtype)
    total = window_sum(x.astype(dtype), window, strides, pads)
    if pads == [(0, 0), (0, 0)] or (count_include_pad and pads == declared):
        return (total / (window[0] * window[1])).astype(x.dtype)
    height, width = x.shape[1:3]
    if count_include_pad:
        (top, bottom), (left, right) = declared
        ones = jnp.ones((1, top + height + bottom, left + width + right, 1), dtype)
        rest = [(0, p[1] - d[1]) for p, d in zip(pads, declared, strict=True)]
        return (total / window_sum(ones, window, strides, rest)).astype(x.dtype)
    return (total / window_sum(jnp.ones((1, height, width, 1), dtype), window, strides, pads)).astype(x.dtype)


def l2_pool(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """Take the Euclidean norm of each window: the root of the sum of squares; padding adds nothing.

    Its slope is 0 where a whole window is 0.

    Source: Sermanet, Chintala and LeCun 2012, arXiv:1204.3968, section 2.1, with P = 2; differs: no Gaussian weights,
    as in PyTorch's ``LPPool2d``.

    Args:
      x: float[batch, height, width, channels].
      window, strides, padding, ceil_mode: as in `max_pool`.
    Returns:
      float[batch, out_height, out_width, channels], in the type of ``x``, summed in float32 at least.
    Raises:
      ValueError: the window is larger than the padded input.
    """
    window = _pair(window)
    strides = window if strides is None else _pair(strides)
    _, pads = _pads(x.shape[1:3], window, strides, padding, ceil_mode)
    squares = window_sum(jnp.square(x.astype(sum_dtype(x.dtype))), window, strides, pads)
    # Twice, because the root's slope at 0 would reach the gradient through the branch not taken.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0).astype(x.dtype)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Average over height and width in float32 or more: float[batch, height, width, channels] -> [batch, channels]."""
    return x.mean((1, 2), dtype=sum_dtype(x.dtype)).astype(x.dtype)


def _windows(x: jax.Array, window: int) -> jax.Array:
    """Split float[batch, height, width, channels] into [batch, height / w, width / w, w * w, channels]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // window, width // window, window**2, channels)


def _chosen(indices: jax.Array, window: int) -> jax.Array:
    """Return which position of each window ``indices`` point at: bool[batch, height, width, w * w, channels]."""
    # As a constant: ONNX counts in no type as narrow as that of indices.
    return indices[:, :, :, None, :] == np.arange(window**2, dtype=indices.dtype).reshape(1, 1, 1, -1, 1)


def max_pool_with_indices(x: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """Take the maximum of each window, and tell where in its window it was, for `max_unpool`.

    Windows do not overlap; a last window that only partly covers the input is kept (``ceil_mode``). Among equal maxima
    the first, by rows, is meant, and takes the whole gradient.

    Args:
      x: float[batch, height, width, channels].
      window: height and width of the window, and the step between windows.
    Returns:
      float[batch, ceil(height / window), ceil(width / window), channels], and uint8 of that shape: row * window +
      column within the window.
    """
    pads = [(0, -size % window) for size in x.shape[1:3]]
    x = _windows(jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf), window)
    indices = x.argmax(axis=3).astype(jnp.uint8)
    return jnp.where(_chosen(indices, window), x, jnp.zeros((), x.dtype)).sum(axis=3), indices


def max_unpool(x: jax.Array, indices: jax.Array, window: int, size: tuple[int, int]) -> jax.Array:
    """Put each value where the maximum of its window was, and zeros elsewhere.

    Source: Badrinarayanan et al. 2017, arXiv:1511.00561, figure 3; Zeiler and Fergus 2014, arXiv:1311.2901, section
    2.1; differs: nothing.

    Args:
      x: float[batch, height, width, channels].
      indices: what `max_pool_with_indices` gave, of the shape of ``x``.
      window: the window of that call.
      size: height and width that were pooled.
    Returns:
      float[batch, *size, channels].
    """
    batch, height, width, channels = x.shape
    x = jnp.where(_chosen(indices, window), x[:, :, :, None, :], jnp.zeros((), x.dtype))
    x = x.reshape(batch, height, width, window, window, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * window, width * window, channels)[:, : size[0], : size[1]]


def _bins(inputs: int, outputs: int) -> np.ndarray:
    """Return float64[outputs, inputs] whose rows average the bins that PyTorch cuts ``inputs`` positions into."""
    index = np.arange(outputs)
    starts, stops = index * inputs // outputs, -(-(index + 1) * inputs // outputs)
    position = np.arange(inputs)
    inside = (position >= starts[:, None]) & (position < stops[:, None])
    return inside / (stops - starts)[:, None]


def adaptive_avg_pool(x: jax.Array, out_size: int | Sequence[int]) -> jax.Array:
    """Average over bins so that the output has ``out_size`` whatever the size of the input.

    Along each dimension bin i covers positions floor(i * inputs / outputs) to ceil((i + 1) * inputs / outputs),
    exclusive. Bins overlap where the division leaves a rest, and repeat values where the input is the smaller one.

    Source: PyTorch's ``AdaptiveAvgPool2d``; differs: nothing.

    Args:
      x: float[batch, height, width, channels].
      out_size: height and width of the output.
    Returns:
      float[batch, out_height, out_width, channels], in the type of ``x``, summed in float32 at least.
    """
    out_height, out_width = _pair(out_size)
    height, width = x.shape[1:3]
    if (height, width) == (out_height, out_width):
        return x
    if height % out_height == 0 and width % out_width == 0:
        return avg_pool(x, (height // out_height, width // out_width))
    dtype = sum_dtype(x.dtype)
    y = x.astype(dtype)
    y = jnp.einsum("oh,nhwc->nowc", _bins(height, out_height).astype(dtype), y, precision=lax.Precision.HIGHEST)
    y = jnp.einsum("ow,nhwc->nhoc", _bins(width, out_width).astype(dtype), y, precision=lax.Precision.HIGHEST)
    return y.astype(x.dtype)
