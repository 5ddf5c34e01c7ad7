"""Dilated images (transposed convolutions): one convolution for each phase of the output, and its gradients."""

from __future__ import annotations

import jax

from cnnjax.nn.conv_cpu.by_phase import by_phase
from cnnjax.nn.conv_cpu.forms import Forms, turned
from cnnjax.nn.conv_cpu.undilated import choose_undilated
from cnnjax.nn.slices import Geometry, Shape


def _convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    forms = choose_undilated(kernel.shape[:-2], images.shape[-1], images.shape[1:-1], geometry)
    return forms.convolve(images, kernel, geometry=geometry)


def _phases(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    return by_phase(images, kernel, geometry=geometry, convolve=_convolve)


def _undilated(geometry: Geometry, size: Shape, out: Shape, window: Shape) -> Geometry:
    """Return the strided convolution from the result back to the images of a transposed convolution."""
    padding = tuple(
        (k - 1 - low, s * (n - 1) + k - m - (k - 1 - low))
        for (low, _), k, s, n, m in zip(geometry.padding, window, geometry.input_dilation, size, out, strict=True)
    )
    ones = (1,) * len(size)
    return Geometry(geometry.input_dilation, padding, ones, ones, 1, geometry.precision)


def _phases_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    window, kernel = kernel.shape[:-2], turned(kernel)
    strided = _undilated(geometry, size, cotangent.shape[1:-1], window)
    forms = choose_undilated(window, cotangent.shape[-1], cotangent.shape[1:-1], strided)
    return forms.convolve(cotangent, kernel, geometry=strided)


def _phases_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    strided = _undilated(geometry, images.shape[1:-1], cotangent.shape[1:-1], window)
    forms = choose_undilated(window, cotangent.shape[-1], cotangent.shape[1:-1], strided)
    return turned(forms.kernel_gradient(cotangent, images, window=window, geometry=strided))


PHASES = Forms(_phases, _phases_input, _phases_kernel)
