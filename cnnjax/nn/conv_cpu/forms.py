"""What a form of a convolution is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.nn.slices import Geometry, Shape


@dataclasses.dataclass(frozen=True)
class Forms:
    """One way to convolve, with its gradients.

    Attributes:
      convolve: (images, kernel, geometry=) -> images.
      input_gradient: (cotangent, kernel, size=, geometry=) -> the images' cotangent, of spatial shape ``size``.
      kernel_gradient: (images, cotangent, window=, geometry=) -> the kernel's cotangent.
    """

    convolve: Callable[..., jax.Array]
    input_gradient: Callable[..., jax.Array]
    kernel_gradient: Callable[..., jax.Array]


def turned(kernel: jax.Array) -> jax.Array:
    """Return the kernel that goes from features to channels."""
    return jnp.swapaxes(jnp.flip(kernel, tuple(range(kernel.ndim - 2))), -1, -2)


def turned_geometry(geometry: Geometry, window: Shape, size: Shape, out: Shape) -> Geometry:
    """Return how the `turned` kernel moves over the result, of shape ``out``, to give images of ``size``, at stride 1.

    Where it starts or ends inside the result, padding is negative.
    """
    reach = [(k - 1) * d for k, d in zip(window, geometry.kernel_dilation, strict=True)]
    padding = tuple(
        (far - low, n + low - m) for far, (low, _), n, m in zip(reach, geometry.padding, size, out, strict=True)
    )
    return dataclasses.replace(geometry, padding=padding)


def back_to_front(forms: Forms) -> Forms:
    """Return forms for stride 1 that compute by those of the convolution from features to channels.

    That convolution is the images' gradient of this one, and the other way round.
    """

    def convolve(images: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
        window, size = kernel.shape[:-2], images.shape[1:-1]
        out = geometry.output_size(size, window)
        back = turned_geometry(geometry, window, size, out)
        return forms.input_gradient(images, turned(kernel), size=out, geometry=back)

    def input_gradient(cotangent: jax.Array, kernel: jax.Array, *, size: Shape, geometry: Geometry) -> jax.Array:
        back = turned_geometry(geometry, kernel.shape[:-2], size, cotangent.shape[1:-1])
        return forms.convolve(cotangent, turned(kernel), geometry=back)

    def kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Shape, geometry: Geometry) -> jax.Array:
        back = turned_geometry(geometry, window, images.shape[1:-1], cotangent.shape[1:-1])
        return turned(forms.kernel_gradient(cotangent, images, window=window, geometry=back))

    return Forms(convolve, input_gradient, kernel_gradient)
