"""Convolution, correlation and transposed convolution of signals and images.

Where the kernel's size is even there is no middle to centre it on: see `convolve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from cnnjax.signal.sizes import transposed_output_size

Border = Literal["zero", "reflect", "replicate", "circular"]
Mode = Literal["VALID", "SAME", "FULL"]
# VALID, SAME or FULL; values on every side; or (before, after) a dimension.
Padding = str | int | Sequence[tuple[int, int]]
# What NumPy calls the borders.
_NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def convolve(
    signal: ArrayLike,
    kernel: ArrayLike,
    *,
    padding: Padding = "SAME",
    border: Border = "zero",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Convolve, with the kernel flipped: y[n] = sum_k signal[n - k] kernel[k].

    The number of the kernel's dimensions says what is meant: 1 or 2 filter each channel of the signal alike; with two
    more, [kernel..., in, out], sums over the input channels give the output channels, as a layer of a network does.

    With SAME, a kernel of odd size is centred. One of even size K reaches K / 2 values before its place and K / 2 - 1
    after it, as in ``scipy.signal``; JAX's and TensorFlow's "SAME" have it the other way round. Under a stride, SAME
    takes every stride-th value of the result of stride 1, from the first.

    Source: Goodfellow, Bengio and Courville 2016, "Deep Learning", equations 9.3 to 9.5; differs: equation 9.5, which
    deep learning calls convolution, is `correlate` here.

    Args:
      signal: [length], [height, width], or either with channels last. Whole numbers and booleans are taken as float32,
        which holds them exactly up to 2^24.
      kernel: [size], [height, width], [size, in, out] or [height, width, in, out]; cast to the signal's type.
      padding: "VALID": where the kernel lies within the signal. "SAME": as many values as the signal has. "FULL":
        wherever kernel and signal overlap. A number pads every side by it; ((before, after), ...) each dimension.
      border: what is put around the signal, see `pad`.
      stride: step between outputs, one number or one a dimension.
      dilation: distance of the kernel's taps, one number or one a dimension.
    Returns:
      Array of the signal's rank and floating type, summed in float32 at least.
    Raises:
      TypeError: complex or other values that are no real numbers.
      ValueError: dimensions or channels that do not fit each other, empty arrays, a stride or dilation below 1, an
        unknown padding or border, or a kernel larger than the padded signal.
    """
    signal, kernel = _real("signal", signal), _real("kernel", kernel)
    spatial = _spatial_dimensions(signal, kernel)
    return _correlate(signal, jnp.flip(kernel, range(spatial)), spatial, padding, border, stride, dilation)


def correlate(
    signal: ArrayLike,
    kernel: ArrayLike,
    *,
    padding: Padding = "SAME",
    border: Border = "zero",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Correlate, with the kernel as it is: y[n] = sum_k signal[n + k] kernel[k], which networks call convolution.

    Source, arguments, result, errors and the place of kernels of even size: see `convolve`, which gives the same for
    kernels that are symmetric about their middle.
    """
    signal, kernel = _real("signal", signal), _real("kernel", kernel)
    spatial = _spatial_dimensions(signal, kernel)
    return _correlate(signal, kernel, spatial, padding, border, stride, dilation)


def transpose_convolve(
    signal: ArrayLike,
    kernel: ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> jax.Array:
    """Put a copy of the kernel, times its value, at every ``stride``-th place, and sum: y[s n + d k - p] += x[n] w[k].

    It is the transpose of the linear map that `correlate` with this kernel, stride, dilation and padding is (over
    channels, with the last two dimensions of the kernel exchanged); it undoes sizes, not values.

    Source: Dumoulin and Visin 2016, arXiv:1603.07285, section 4.

    Args:
      signal, kernel: as in `convolve`.
      stride: step between the copies, one number or one a dimension.
      padding: values cut off each end, one number or one a dimension.
      output_padding: values added at the end, below the stride or the dilation.
      dilation: distance of the kernel's taps.
    Returns:
      Array of the signal's rank; sizes are those of `transposed_output_size`.
    Raises:
      TypeError, ValueError: as `convolve` and `transposed_output_size`.
    """
    signal, kernel = _real("signal", signal), _real("kernel", kernel)
    spatial = _spatial_dimensions(signal, kernel)
    strides = steps("stride", stride, spatial)
    dilations = steps("dilation", dilation, spatial)
    cut = steps("padding", padding, spatial, least=0)
    extra = steps("output_padding", output_padding, spatial, least=0)
    pads = []
    for h, k, s, p, p_out, d in zip(signal.shape, kernel.shape, strides, cut, extra, dilations, strict=False):
        transposed_output_size(h, k, s, p, p_out, dilation=d)  # raises where no such size is
        pads.append((d * (k - 1) - p, d * (k - 1) - p + p_out))
    flipped = jnp.flip(kernel, range(spatial))
    return _apply(signal, flipped, spatial, (1,) * spatial, dilations, pads, input_dilation=strides)


def pad(signal: ArrayLike, widths: Sequence[tuple[int, int]], border: Border = "zero") -> jax.Array:
    """Put values around a signal.

    For the signal 1 2 3 and two values on each side: "zero" 0 0 1 2 3 0 0; "reflect", about the last value, which is
    not repeated, 3 2 1 2 3 2 1 (``scipy.ndimage`` calls it mirror); "replicate" 1 1 1 2 3 3 3; "circular", which
    continues at the other end, 2 3 1 2 3 1 2. Widths beyond the signal go on in the same way.

    Args:
      signal: numbers of any shape.
      widths: (before, after) for each dimension, or for the first ones.
      border: "zero", "reflect", "replicate" or "circular".
    Returns:
      Array of the signal's type and rank.
    Raises:
      ValueError: an unknown border, negative widths, or more widths than dimensions.
    """
    signal = jnp.asarray(signal)
    if border not in get_args(Border):
        raise ValueError(f"border must be one of {', '.join(get_args(Border))}, got {border!r}")
    if len(widths) > signal.ndim:
        raise ValueError(f"there are {len(widths)} pairs of widths for a signal of {signal.ndim} dimensions")
    for before, after in widths:
        if min(before, after) < 0:
            raise ValueError(f"widths must be at least 0, got {(before, after)}; slice the signal to cut values off")
    if border == "zero":
        return jnp.pad(signal, [*widths, *[(0, 0)] * (signal.ndim - len(widths))])
    for axis, width in enumerate(widths):
        if width != (0, 0):
            places = np.pad(np.arange(signal.shape[axis]), width, mode=_NUMPY_MODES[border])  # type: ignore[call-overload]
            signal = jnp.take(signal, places, axis=axis)
    return signal


def _real(name: str, values: ArrayLike) -> jax.Array:
    """Return ``values`` as a non-empty array of floating-point numbers."""
    array = jnp.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}; convolve real and imaginary part apart")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)


def _spatial_dimensions(signal: jax.Array, kernel: jax.Array) -> int:
    """Return 1 or 2, once it is sure that signal and kernel fit each other."""
    if not 1 <= kernel.ndim <= 4:
        raise ValueError(
            f"kernel must be [size], [height, width], [size, in, out] or [height, width, in, out], got shape "
            f"{kernel.shape}"
        )
    spatial = kernel.ndim - 2 if kernel.ndim > 2 else kernel.ndim
    axes = ("length",) if spatial == 1 else ("height", "width")
    if kernel.ndim > 2:
        if signal.ndim != spatial + 1:
            raise ValueError(
                f"signal must be [{', '.join(axes)}, channels] for a kernel of shape {kernel.shape}, got shape "
                f"{signal.shape}"
            )
        if signal.shape[-1] != kernel.shape[-2]:
            raise ValueError(
                f"the kernel takes {kernel.shape[-2]} channels (shape {kernel.shape}), the signal has "
                f"{signal.shape[-1]} (shape {signal.shape}); give a kernel [..., {signal.shape[-1]}, out]"
            )
    elif signal.ndim not in (spatial, spatial + 1):
        raise ValueError(
            f"signal must be [{', '.join(axes)}] or [{', '.join(axes)}, channels] for a kernel of shape {kernel.shape}"
            f", got shape {signal.shape}"
        )
    return spatial


def steps(name: str, value: int | Sequence[int], spatial: int, least: int = 1) -> tuple[int, ...]:
    """Return one whole number a dimension, of at least ``least``."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * spatial
    if len(values) != spatial or not all(isinstance(each, int) and each >= least for each in values):
        raise ValueError(f"{name} must be {spatial} whole numbers of at least {least} (or one for all), got {value}")
    return values


def _widths(padding: Padding, covered: Sequence[int]) -> list[tuple[int, int]]:
    """Return what is put before and after each dimension, for a kernel that covers so many values."""
    if isinstance(padding, str):
        if padding not in get_args(Mode):
            raise ValueError(f"padding must be one of {', '.join(get_args(Mode))}, a number or pairs, got {padding!r}")
        if padding == "VALID":
            return [(0, 0)] * len(covered)
        if padding == "SAME":
            return [(size // 2, (size - 1) // 2) for size in covered]
        return [(size - 1, size - 1) for size in covered]
    if isinstance(padding, int):
        return [(padding, padding)] * len(covered)
    pairs = [(before, after) for before, after in padding]
    if len(pairs) != len(covered):
        raise ValueError(f"padding must have one pair for each of {len(covered)} dimensions, got {padding}")
    return pairs


def _correlate(
    signal: jax.Array,
    kernel: jax.Array,
    spatial: int,
    padding: Padding,
    border: Border,
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
) -> jax.Array:
    strides, dilations = steps("stride", stride, spatial), steps("dilation", dilation, spatial)
    covered = [d * (k - 1) + 1 for k, d in zip(kernel.shape[:spatial], dilations, strict=True)]
    padded = pad(signal, _widths(padding, covered), border)
    if any(k > size for k, size in zip(covered, padded.shape, strict=False)):
        raise ValueError(
            f"the kernel covers {tuple(covered)} values, more than the signal's {tuple(padded.shape[:spatial])} with "
            'its padding; take a smaller kernel, or padding="SAME" or "FULL"'
        )
    return _apply(padded, kernel, spatial, strides, dilations, [(0, 0)] * spatial)


def _apply(
    signal: jax.Array,
    kernel: jax.Array,
    spatial: int,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    input_dilation: Sequence[int] | None = None,
) -> jax.Array:
    """Correlate with zero padding; a kernel without channels applies to each channel alike."""
    shared, channels = kernel.ndim == spatial, signal.ndim > spatial
    if shared:
        # Channels that are filtered alike are a batch of signals.
        batch = jnp.moveaxis(signal, -1, 0)[..., None] if channels else signal[None, ..., None]
        weights = kernel[..., None, None]
    else:
        batch, weights = signal[None], kernel
    letters = "HW"[:spatial]
    out = lax.conv_general_dilated(
        batch,
        weights.astype(signal.dtype),
        window_strides=strides,
        padding=pads,
        lhs_dilation=input_dilation,
        rhs_dilation=dilations,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        # Not the coarser products that accelerators take where nobody asks.
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float64 if signal.dtype == jnp.float64 else jnp.float32,
    ).astype(signal.dtype)
    if not shared:
        return out[0]
    return jnp.moveaxis(out[..., 0], 0, -1) if channels else out[0, ..., 0]
