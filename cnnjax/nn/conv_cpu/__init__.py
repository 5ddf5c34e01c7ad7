"""Which form of a convolution is fastest on a CPU, and these forms.

XLA has three ways to compute a convolution on CPUs: YNNPACK, which it asks first; Eigen; and number by number, ten to
hundreds of times slower, what both refuse. Eigen is the best for dense windows over many channels, most of all for the
gradients of kernels. So dense convolutions at stride 1 are written such that Eigen gets them where that costs little,
and depthwise, grouped and small ones as programs of other operations. The rule:

- a 1x1 window is a matrix product, with and without groups;
- a window that moves by its own size, without padding: the images with the pixels of each window side by side, one
  matrix product;
- depthwise: the sum over the window's taps of shifted images times the tap; its kernel gradient accumulates shifted
  rows times rows of the cotangent;
- few channels per group (at most 8) in many groups (at least 16): the same sum of shifted images, with the group index
  innermost, so that vectors are long;
- other groups: a dense convolution for each block of groups, with zeros between the groups of a block;
- the kernel gradient of groups: that of dense kernels for smaller blocks of groups, of which the groups' own parts are
  taken; otherwise, as with strides, batched matrix products of the planes that the taps see;
- dilated images (a transposed convolution): one convolution for each phase of the output, so that no zero is
  multiplied; the phases are interleaved;
- a dense window over a map of few pixels: what the window sees at each of them, written side by side, times the
  kernel, one matrix product for all images;
- a small dense window from or to few channels, as of first and last layers: the same, of the side with few channels;
- any other dense window: XLA's convolution, at stride 1 mostly one column or row longer than asked for, which makes it
  Eigen's; with strides, the images' gradient is one of dilated images, by phases; the kernel gradient is a convolution
  of the images by the cotangent in which channels count as images, or, for at most half as many features as channels
  at stride 1, the same with both turned round;
- what is left, as XLA does it;
- if oneDNN was asked for (`cnnjax.nn.onednn`), windows over two and three axes are its own as far as
  `cnnjax.nn.conv_cpu.onednn` says, but for small maps, 1x1 windows and those that move by their own size.

Each form is a module; `choose` and `choose_undilated` are the rule. `benchmarks/convolutions.py` measures each form
where it applies. Sums are taken in float32 at least.

All shapes are [batch, spatial..., channels] for images and [window..., channels / groups, features] for kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.nn.conv_cpu.dense import DENSE
from cnnjax.nn.conv_cpu.depthwise import DEPTHWISE
from cnnjax.nn.conv_cpu.eigen import EIGEN
from cnnjax.nn.conv_cpu.forms import Forms
from cnnjax.nn.conv_cpu.groups import BLOCKS, LANES
from cnnjax.nn.conv_cpu.native import NATIVE
from cnnjax.nn.conv_cpu.patches import PATCHES
from cnnjax.nn.conv_cpu.patchify import PATCHIFY
from cnnjax.nn.conv_cpu.phases import PHASES
from cnnjax.nn.conv_cpu.pointwise import POINTWISE
from cnnjax.nn.conv_cpu.undilated import choose_undilated
from cnnjax.nn.slices import Geometry, Shape

__all__ = [
    "BLOCKS",
    "DENSE",
    "DEPTHWISE",
    "EIGEN",
    "LANES",
    "NATIVE",
    "PATCHES",
    "PATCHIFY",
    "PHASES",
    "POINTWISE",
    "Form",
    "Forms",
    "choose",
    "convolve",
    "input_gradient",
    "kernel_gradient",
]

Form = Callable[[jax.Array, jax.Array], jax.Array]


def convolve(images: Shape, kernel: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to convolve images with a kernel of these shapes."""
    form = choose(kernel[:-2], images[-1], images[1:-1], geometry)
    return _in_float32(form, dtype, functools.partial(form.convolve, geometry=geometry))


def input_gradient(kernel: Shape, size: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to get the images' cotangent (of spatial shape ``size``) from (cotangent, kernel)."""
    form = choose(kernel[:-2], kernel[-2] * geometry.groups, size, geometry)
    return _in_float32(form, dtype, functools.partial(form.input_gradient, size=size, geometry=geometry))


def kernel_gradient(images: Shape, window: Shape, dtype: Any, geometry: Geometry) -> Form:
    """Return how to get the kernel's cotangent from (images, cotangent)."""
    form = choose(window, images[-1], images[1:-1], geometry)
    return _in_float32(form, dtype, functools.partial(form.kernel_gradient, window=window, geometry=geometry))


def choose(window: Shape, channels: int, size: Shape, geometry: Geometry) -> Forms:
    """Return the forms for a convolution: the rule above."""
    if set(geometry.input_dilation) == {1}:
        return choose_undilated(window, channels, size, geometry)
    if min(geometry.output_size(size, window)) < 1 or len(window) > 3 or geometry.groups > 1:
        return NATIVE
    return PHASES if set(geometry.strides) == set(geometry.kernel_dilation) == {1} else NATIVE


def _in_float32(forms: Forms, dtype: Any, form: Form) -> Form:
    """Return ``form`` with sums in float32 for arrays of lower precision; XLA sees to its own."""
    if forms is NATIVE or jnp.finfo(dtype).bits >= 32:
        return form
    return lambda first, second: form(first.astype(jnp.float32), second.astype(jnp.float32)).astype(dtype)
