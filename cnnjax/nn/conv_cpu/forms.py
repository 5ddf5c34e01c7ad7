"""What a form of a convolution is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


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
