"""Windows side by side: each pixel is seen at most once, so that a convolution is a product of reordered images."""

from __future__ import annotations

import jax
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.pointwise import over_pixels
from cnnjax.nn.slices import Geometry, Shape, apart, pad


def is_patchify(window: Shape, geometry: Geometry) -> bool:
    """Return whether the window moves by its own size over two axes, which are not padded, at most cut at the end."""
    plain = set(geometry.kernel_dilation) == {1} and all(low == 0 and high <= 0 for low, high in geometry.padding)
    return window == geometry.strides and len(window) == 2 and plain


def _patches(images: jax.Array, window: Shape, out: Shape) -> jax.Array:
    """Return what each window sees, [batch, spatial..., taps * channels]."""
    (down, across), (rows, columns), channels = window, out, images.shape[-1]
    images = images[:, : rows * down, : columns * across]
    parts = images.reshape(-1, rows, down, columns, across * channels)
    return apart(lambda: parts.swapaxes(2, 3)).reshape(-1, rows, columns, down * across * channels)


def _convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    window, features = kernel.shape[:-2], kernel.shape[-1]
    out = geometry.output_size(images.shape[1:-1], window)
    seen = _patches(images, window, out)
    product = lax.dot(seen.reshape(-1, seen.shape[-1]), kernel.reshape(-1, features), precision=geometry.precision)
    return product.reshape(-1, *out, features)


def _input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    (down, across, channels, features), (rows, columns) = kernel.shape, cotangent.shape[1:-1]
    last = (((1,), (1,)), ((), ()))
    flat, matrix = cotangent.reshape(-1, features), kernel.reshape(-1, features)
    product = lax.dot_general(flat, matrix, last, precision=geometry.precision)
    parts = product.reshape(-1, rows, columns, down, across * channels)
    images = apart(lambda: parts.swapaxes(2, 3)).reshape(-1, rows * down, columns * across, channels)
    return pad(images, [(0, n - m) for n, m in zip(size, images.shape[1:-1], strict=True)])


def _kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    seen = _patches(images, window, cotangent.shape[1:-1])
    return over_pixels(seen, cotangent, geometry).reshape(*window, images.shape[-1], -1)


PATCHIFY = Forms(_convolve, _input_gradient, _kernel_gradient)
