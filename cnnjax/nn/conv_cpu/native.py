"""XLA's own convolution."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.operation import shaped_like
from cnnjax.nn.slices import Geometry, Shape


def native_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return a convolution as `jax.lax` writes it."""
    if min(itertools.chain(*geometry.padding)) < 0:
        # XLA:CPU computes wrong numbers for some negative paddings.
        config = [(low, high, d - 1) for (low, high), d in zip(geometry.padding, geometry.input_dilation, strict=True)]
        images = lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *config, (0, 0, 0)])
        ones = (1,) * len(config)
        geometry = dataclasses.replace(geometry, padding=((0, 0),) * len(config), input_dilation=ones)
    rank = len(geometry.strides)
    image = (0, rank + 1, *range(1, rank + 1))
    return lax.conv_general_dilated(
        images,
        kernel,
        geometry.strides,
        geometry.padding,
        geometry.input_dilation,
        geometry.kernel_dilation,
        lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image),
        geometry.groups,
        precision=geometry.precision,
    )


def native_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    """Return the images' cotangent, of spatial shape ``size``, by transposing the convolution."""
    images = shaped_like(cotangent, (cotangent.shape[0], *size, kernel.shape[-2] * geometry.groups))
    return jax.linear_transpose(lambda images: native_convolve(images, kernel, geometry=geometry), images)(cotangent)[0]


def _native_kernel(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
    kernel = shaped_like(images, (*window, images.shape[-1] // geometry.groups, cotangent.shape[-1]))
    return jax.linear_transpose(lambda kernel: native_convolve(images, kernel, geometry=geometry), kernel)(cotangent)[0]


NATIVE = Forms(native_convolve, native_input, _native_kernel)
