"""Dense windows over two axes, as XLA's convolution by Eigen, which is faster than the one that XLA prefers.

XLA:CPU gives a convolution to YNNPACK first. YNNPACK refuses those whose result or kernel is longer along an axis than
the images are before padding, and Eigen gets them. So results are computed with a few columns or rows more than asked
for, and a cotangent that is a kernel is lengthened by zeros. On two cores with AVX-512, Eigen takes 0.8 to 1.0 of
YNNPACK's time for values of 128 features or more, 0.5 to 0.8 for fewer, and 0.2 to 1.0 for gradients of kernels.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
from jax import lax

from cnnjax.nn.conv_cpu.correlation import correlate
from cnnjax.nn.conv_cpu.forms import Forms, turned, turned_geometry
from cnnjax.nn.conv_cpu.native import native_convolve, native_input
from cnnjax.nn.slices import Geometry, Shape

# Results are computed longer by at most this part of them to be Eigen's.
MOST_EXTRA = 1 / 8


def eigen_convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Return a convolution, computed longer than asked for along the axis where that takes least.

    Where that takes too much, YNNPACK computes it, with one column more, because it is several times slower without
    padding. Strided convolutions with padding, and all with negative padding, are left as they are.
    """
    strides, padded = geometry.strides, any(itertools.chain(*geometry.padding))
    if min(itertools.chain(*geometry.padding)) < 0 or (padded and set(strides) != {1}):
        return native_convolve(images, kernel, geometry=geometry)
    size, out = images.shape[1:-1], geometry.output_size(images.shape[1:-1], kernel.shape[:-2])
    extra = {axis: max(1, n + 1 - m) for axis, (n, m) in enumerate(zip(size, out, strict=True))}
    axis = min(extra, key=lambda axis: (extra[axis] / out[axis], -axis))
    if extra[axis] > MOST_EXTRA * out[axis]:
        axis, extra = 1, {1: 1}
    padding = list(geometry.padding)
    padding[axis] = (padding[axis][0], padding[axis][1] + extra[axis] * strides[axis])
    result = native_convolve(images, kernel, geometry=dataclasses.replace(geometry, padding=tuple(padding)))
    return lax.slice_in_dim(result, 0, out[axis], axis=axis + 1)


def eigen_input(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
    """Return the images' cotangent, of spatial shape ``size``: at stride 1 a convolution with the turned kernel."""
    if set(geometry.strides) != {1}:
        return native_input(cotangent, kernel, size=size, geometry=geometry)
    back = turned_geometry(geometry, kernel.shape[:-2], size, cotangent.shape[1:-1])
    return eigen_convolve(cotangent, turned(kernel), geometry=back)


EIGEN = Forms(eigen_convolve, eigen_input, correlate)
