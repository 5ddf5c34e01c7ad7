"""Convolution layers: drop-in replacements for those of ``flax.linen``.

Everything in cnnjax convolves through these classes, so that there is one place to change how it is done.
"""

from __future__ import annotations

import flax.linen as nn
import jax


def _check_channels(layer: nn.Module, inputs: jax.Array, groups: int = 1) -> None:
    """Raise an error that explains itself when the channels of ``inputs`` do not fit an existing kernel."""
    if not layer.has_variable("params", "kernel"):
        return
    kernel: jax.Array = layer.get_variable("params", "kernel")
    expected = kernel.shape[-2] * groups
    if inputs.shape[-1] != expected:
        raise ValueError(
            f"{'/'.join(layer.path) or type(layer).__name__}: the kernel takes {expected} input channels, got an input "
            f"of shape {inputs.shape} with {inputs.shape[-1]}; give images with {expected} channels, or initialise the "
            "network with images like these"
        )


class Conv(nn.Conv):
    """Convolve. Same arguments, parameter names, shapes and results as ``flax.linen.Conv``.

    Args:
      inputs: float[batch, spatial..., in_features].
    Returns:
      float[batch, spatial..., features] in ``dtype``.
    Raises:
      ValueError: the kernel among the parameters was made for another number of input channels.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Apply the convolution to ``inputs``."""
        _check_channels(self, inputs, self.feature_group_count)
        return super().__call__(inputs)


class ConvTranspose(nn.ConvTranspose):
    """Convolve with fractional strides. Same arguments, parameters and results as ``flax.linen.ConvTranspose``.

    Args:
      inputs: float[batch, spatial..., in_features].
    Returns:
      float[batch, spatial..., features] in ``dtype``.
    Raises:
      ValueError: the kernel among the parameters was made for another number of input channels.
    """

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Apply the transposed convolution to ``inputs``."""
        if not self.transpose_kernel:
            _check_channels(self, inputs)
        return super().__call__(inputs)
