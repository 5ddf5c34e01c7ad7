"""Chains of convolutions in parallel, the building blocks of the Inception networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """One convolution in a table.

    Attributes:
      features: output channels.
      kernel_size: one number for a square kernel, or (height, width).
      strides: step, the same in both dimensions.
      padding: zeros on each side of both dimensions; None keeps the size of the input (at stride 1, odd kernels).
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: int | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.kernel_size, self.kernel_size) if isinstance(self.kernel_size, int) else self.kernel_size

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after each spatial dimension."""
        return tuple((k // 2, k // 2) if self.padding is None else (self.padding, self.padding) for k in self.window)


# A convolution, several on one input whose outputs are concatenated, or a function without parameters.
Layer = ConvLayer | tuple[ConvLayer, ...] | Callable[[jax.Array], jax.Array]


def count_convs(layers: tuple[Layer, ...]) -> int:
    """Return the number of convolutions in a chain's table, and so the last number in their names."""
    sizes = (len(layer) if isinstance(layer, tuple) else int(isinstance(layer, ConvLayer)) for layer in layers)
    return sum(sizes)


class ConvChain(nn.Module):
    """Apply a table's layers one after the other; each convolution is normalised and activated.

    The convolutions are ``conv1``, ``conv2``, ... with their normalisations ``norm1``, ``norm2``, ... in the table's
    order, counted through layers of several. ``norm`` None leaves normalisation out.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, out_height, out_width, out_features].
    """

    layers: tuple[Layer, ...]
    conv: Callable[..., Any]
    norm: Callable[..., Any] | None
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the layers to ``x``."""
        number = 0
        for layer in self.layers:
            if not isinstance(layer, ConvLayer | tuple):
                x = layer(x)
                continue
            outputs = []
            for row in layer if isinstance(layer, tuple) else (layer,):
                number += 1
                conv = self.conv(row.features, row.window, strides=row.strides, padding=row.pads, name=f"conv{number}")
                y = conv(x)
                if self.norm is not None:
                    y = self.norm(use_running_average=not train, name=f"norm{number}")(y)
                outputs.append(self.activation(y))
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
        return x


class Branches(nn.Module):
    """Apply chains ``branch1``, ``branch2``, ... to one input and concatenate their channels.

    Source: Szegedy et al. 2014, arXiv:1409.4842, figure 2; differs: nothing.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, out_height, out_width, sum of the chains' features].
    """

    branches: tuple[tuple[Layer, ...], ...]
    conv: Callable[..., Any]
    norm: Callable[..., Any] | None
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the branches to ``x``."""
        outputs = [
            ConvChain(layers, self.conv, self.norm, self.activation, name=f"branch{number}")(x, train)
            for number, layers in enumerate(self.branches, start=1)
        ]
        return jnp.concatenate(outputs, axis=-1)
