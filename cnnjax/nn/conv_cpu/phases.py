"""Dilated images (transposed convolutions): one convolution for each phase of the output."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp

from cnnjax.nn.conv_cpu.forms import Forms, turned
from cnnjax.nn.conv_cpu.pointwise import pointwise_convolve
from cnnjax.nn.conv_cpu.undilated import choose_undilated
from cnnjax.nn.slices import Geometry, Shape, interleave, pad


def _phases(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    strides, window, size = geometry.input_dilation, kernel.shape[:-2], images.shape[1:-1]
    out = geometry.output_size(size, window)
    counts = [-(-n // s) for n, s in zip(out, strides, strict=True)]
    phases = {}
    for phase in itertools.product(*map(range, strides)):
        lows = [low for low, _ in geometry.padding]
        first = [(low - a) % s for low, a, s in zip(lows, phase, strides, strict=True)]
        part = kernel[tuple(slice(i, None, s) for i, s in zip(first, strides, strict=True))]
        if 0 in part.shape:
            phases[phase] = jnp.zeros((images.shape[0], *counts, kernel.shape[-1]), images.dtype)
            continue
        before = [(low - a - i) // s for low, a, i, s in zip(lows, phase, first, strides, strict=True)]
        padding = tuple(
            (low, count + k - 1 - n - low)
            for low, count, k, n in zip(before, counts, part.shape[:-2], size, strict=True)
        )
        inner = Geometry((1,) * len(size), padding, (1,) * len(size), (1,) * len(size), 1, geometry.precision)
        # A single tap sees whole images, shifted.
        if math.prod(part.shape[:-2]) == 1:
            inner = dataclasses.replace(inner, padding=((0, 0),) * len(size))
            phases[phase] = pointwise_convolve(pad(images, padding), part, geometry=inner)
        else:
            forms = choose_undilated(part.shape[:-2], images.shape[-1], size, inner)
            phases[phase] = forms.convolve(images, part, geometry=inner)
    return interleave(phases, strides, out)


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
