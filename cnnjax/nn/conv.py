"""Convolution layers: drop-in replacements for those of ``flax.linen``, fast on every backend.

Same arguments, parameter names and shapes, and the same results to rounding. On GPU and TPU they lower to the one
native convolution, but for transposed and dilated ones on GPUs (see `cnnjax.nn.conv_gpu`); on CPU to the fastest of a
few forms (see `cnnjax.nn.conv_cpu`), with all derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.nn.convolve import conv_general_dilated, conv_transpose
from cnnjax.nn.parameters import ShapedParameters


def _name(layer: nn.Module) -> str:
    return "/".join(layer.path) or type(layer).__name__


def _check_steps(layer: nn.Conv) -> None:
    """Raise an error for strides and dilations under 1, which would divide by zero or turn images around."""
    for name in ("strides", "kernel_dilation", "input_dilation"):
        value = getattr(layer, name)
        if value is not None and min(value if isinstance(value, Sequence) else (value,)) < 1:
            raise ValueError(f"{_name(layer)}: {name} must be at least 1, got {value}")


def _check_channels(layer: nn.Module, inputs: jax.Array, groups: int = 1) -> None:
    """Raise an error that explains itself when the channels of ``inputs`` do not fit an existing kernel."""
    if not layer.has_variable("params", "kernel"):
        return
    kernel: jax.Array = layer.get_variable("params", "kernel")
    expected = kernel.shape[-2] * groups
    if inputs.shape[-1] != expected:
        raise ValueError(
            f"{_name(layer)}: the kernel takes {expected} input channels, got an input "
            f"of shape {inputs.shape} with {inputs.shape[-1]}; give images with {expected} channels, or initialise the "
            "network with images like these"
        )


class Conv(ShapedParameters, nn.Conv):
    """Convolve. Same arguments, parameter names, shapes and results as ``flax.linen.Conv``.

    Args:
      inputs: float[batch, spatial..., in_features].
    Returns:
      float[batch, spatial..., features] in ``dtype``.
    Raises:
      ValueError: the kernel among the parameters was made for another number of input channels; channels that the
        groups do not divide; strides or dilations under 1; a kernel that does not fit the images.
    """

    conv_general_dilated: Any = conv_general_dilated

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Apply the convolution to ``inputs``."""
        _check_channels(self, inputs, self.feature_group_count)
        _check_steps(self)
        groups = self.feature_group_count
        if groups < 1 or inputs.shape[-1] % groups or self.features % groups:
            raise ValueError(
                f"{_name(self)}: feature_group_count must divide {inputs.shape[-1]} input channels and {self.features} "
                f"features, got {groups}"
            )
        outputs = super().__call__(inputs)
        if outputs.size == 0 and inputs.size > 0:
            raise ValueError(
                f"{_name(self)}: a kernel of {self.kernel_size} does not fit an input of shape {inputs.shape} with "
                f"padding {self.padding!r}; give larger images, or another padding"
            )
        return outputs


class DepthwiseConv(nn.Module):
    """Convolve each channel by itself: ``Conv`` with as many groups as the inputs have channels.

    Same parameters as that, kernel[window..., 1, features] and bias[features].

    Args:
      features: a multiple of the inputs' channels; None for as many as there are.
      kernel_size, strides, padding, kernel_dilation, use_bias, dtype, param_dtype, precision, kernel_init, bias_init:
        as in ``flax.linen.Conv``.
      inputs: float[batch, spatial..., in_features].
    Returns:
      float[batch, spatial..., features] in ``dtype``.
    Raises:
      ValueError: ``features`` is no multiple of the channels.
    """

    features: int | None
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Any = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = nn.linear.default_kernel_init
    bias_init: Any = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Apply the convolution to ``inputs``."""
        channels = inputs.shape[-1]
        features = channels if self.features is None else self.features
        if features < 1 or features % channels:
            raise ValueError(
                f"{'/'.join(self.path) or 'DepthwiseConv'}: features must be a multiple of the {channels} input "
                f"channels, got {features}"
            )
        layer = Conv(
            features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=channels,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )
        nn.share_scope(self, layer)
        return layer(inputs)


class ConvTranspose(ShapedParameters, nn.ConvTranspose):
    """Convolve with fractional strides. Same arguments, parameters and results as ``flax.linen.ConvTranspose``.

    Args:
      inputs: float[batch, spatial..., in_features].
    Returns:
      float[batch, spatial..., features] in ``dtype``.
    Raises:
      ValueError: the kernel among the parameters was made for another number of input channels.
    """

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Apply the transposed convolution to ``inputs``."""
        if not self.transpose_kernel:
            _check_channels(self, inputs)
        rank = 1 if isinstance(self.kernel_size, int) else len(self.kernel_size)
        padding = nn.linear.canonicalize_padding(self.padding, rank)
        if padding == "CIRCULAR":
            # The window wraps around; rare, and left to Flax.
            return super().__call__(inputs)
        window = (self.kernel_size,) if isinstance(self.kernel_size, int) else tuple(self.kernel_size)
        batch, features = inputs.shape[: -rank - 1], inputs.shape[-1]
        inputs = inputs.reshape(-1, *inputs.shape[-rank - 1 :])
        ends = (self.features, features) if self.transpose_kernel else (features, self.features)
        kernel = self.param("kernel", self.kernel_init, (*window, *ends), self.param_dtype)
        if self.mask is not None:
            if self.mask.shape != kernel.shape:
                raise ValueError(f"mask must have the kernel's shape {kernel.shape}, got {self.mask.shape}")
            kernel = kernel * self.mask
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        images, weights, offset = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        if images is None or weights is None:
            raise TypeError("promote_dtype must return the inputs and the kernel that it was given, got None")
        y = conv_transpose(
            images,
            weights,
            _each(self.strides, rank),
            padding,
            _each(self.kernel_dilation, rank),
            self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if offset is not None:
            y += offset.reshape((1,) * (rank + 1) + offset.shape)
        return y.reshape(*batch, *y.shape[1:])


def _each(value: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Return a value for each spatial axis."""
    if value is None:
        return (1,) * rank
    return (value,) * rank if isinstance(value, int) else tuple(value)
