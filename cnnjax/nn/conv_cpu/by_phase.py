"""Dilated images, as of a transposed convolution: one convolution for each phase of the result."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.nn.conv_cpu.forms import turned, turned_geometry
from cnnjax.nn.conv_cpu.pointwise import pointwise_convolve
from cnnjax.nn.slices import Geometry, Shape, interleave, pad


def by_phase(
    images: jax.Array, kernel: jax.Array, *, geometry: Geometry, convolve: Callable[..., jax.Array]
) -> jax.Array:
    """Return a convolution of dilated images, at stride 1 with an undilated kernel, without multiplying their zeros.

    Args:
      images: [batch, spatial..., channels].
      kernel: [window..., channels, features].
      geometry: how the window moves.
      convolve: (images, kernel, geometry=) -> images: computes a phase for which the kernel has several taps, at stride
        1 and without dilation.
    """
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
            phases[phase] = convolve(images, part, geometry=inner)
    return interleave(phases, strides, out)


def input_by_phase(
    cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry, convolve: Callable[..., jax.Array]
) -> jax.Array:
    """Return the images' cotangent, of spatial shape ``size``, of a strided convolution with an undilated kernel.

    Args:
      cotangent: [batch, spatial..., features].
      kernel: [window..., channels, features].
      size: spatial shape of the images.
      geometry: how the window moves over the images.
      convolve: as for `by_phase`.
    """
    spread = tuple((m - 1) * s + 1 for m, s in zip(cotangent.shape[1:-1], geometry.strides, strict=True))
    back = turned_geometry(geometry, kernel.shape[:-2], size, spread)
    back = dataclasses.replace(back, strides=(1,) * len(size), input_dilation=geometry.strides)
    return by_phase(cotangent, turned(kernel), geometry=back, convolve=convolve)
