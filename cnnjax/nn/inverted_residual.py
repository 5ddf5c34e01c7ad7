"""The inverted residual of the mobile networks, the 1x1 or 3x3 layer around it, and widths in multiples of eight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
from flax.typing import Initializer

from cnnjax.nn.activation import logistic, relu
from cnnjax.nn.attention import SqueezeExcite
from cnnjax.nn.initializers import he_fan_out
from cnnjax.nn.regularization import StochasticDepth

ModuleDef = Callable[..., Any]
PaddingRule = Literal["symmetric", "SAME"]


def round_width(width: float, divisor: int = 8, *, limit: float = 0.9) -> int:
    """Return the multiple of ``divisor`` nearest to ``width``, and the next one if less than ``limit`` of it is left.

    Source: Sandler et al. 2018, arXiv:1801.04381, the authors' implementation of the width multiplier.

    >>> round_width(32 * 0.75), round_width(10), round_width(16 * 1.2), round_width(16 * 1.2, limit=0)
    (24, 16, 24, 16)
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * width else rounded


def conv_padding(rule: PaddingRule, kernel_size: int, dilation: int = 1) -> int | str:
    """Return the padding of an odd kernel: PyTorch's (equal on all sides) or TensorFlow's (at stride 2 it is not)."""
    if rule == "SAME":
        return "SAME"
    if rule == "symmetric":
        return (kernel_size - 1) // 2 * dilation
    raise ValueError(f"padding must be 'symmetric' or 'SAME', got {rule!r}")


class ConvNorm(nn.Module):
    """Convolve, normalise, activate.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    padding: PaddingRule = "symmetric"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the layer to ``x``."""
        kernel = (self.kernel_size, self.kernel_size)
        padding = conv_padding(self.padding, self.kernel_size, self.dilation)
        x = self.conv(
            self.features,
            kernel,
            strides=self.strides,
            padding=padding,
            kernel_dilation=self.dilation,
            name="conv1",
        )(x)
        return self.activation(self.norm(use_running_average=not train, name="norm1")(x))


class InvertedResidual(nn.Module):
    """Widen with a 1x1 convolution, filter each channel alone, attend, narrow linearly, and add the input.

    The first convolution is left out where it would not widen; the sum is taken where the shape stays.

    Source: Sandler et al. 2018, arXiv:1801.04381, figure 4; attention between the last two convolutions: Howard et al.
    2019, arXiv:1905.02244, figure 4.

    Attributes:
      features: channels of the output.
      expanded_features: channels in the middle.
      squeeze_features: width of the attention's bottleneck; 0 for no attention.
      gate: last function of the attention.
      depthwise_init: initial values of the depthwise kernel, others are ``conv``'s.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and may drop the branch.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    expanded_features: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    kernel_size: int = 3
    strides: int = 1
    dilation: int = 1
    padding: PaddingRule = "symmetric"
    squeeze_features: int = 0
    squeeze_activation: Callable[[jax.Array], jax.Array] = relu
    gate: Callable[[jax.Array], jax.Array] = logistic
    depthwise_init: Initializer = he_fan_out
    stochastic_depth_rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        y = x
        if self.expanded_features != x.shape[-1]:
            y = self.conv(self.expanded_features, (1, 1), padding=0, name="expand_conv")(y)
            y = self.activation(self.norm(use_running_average=not train, name="expand_norm")(y))
        depthwise = self.conv(
            self.expanded_features,
            (self.kernel_size, self.kernel_size),
            strides=self.strides,
            padding=conv_padding(self.padding, self.kernel_size, self.dilation),
            kernel_dilation=self.dilation,
            feature_group_count=self.expanded_features,
            kernel_init=self.depthwise_init,
            name="depthwise_conv",
        )
        y = self.activation(self.norm(use_running_average=not train, name="depthwise_norm")(depthwise(y)))
        if self.squeeze_features:
            y = SqueezeExcite(
                self.squeeze_features,
                activation=self.squeeze_activation,
                gate=self.gate,
                dtype=depthwise.dtype,
                param_dtype=depthwise.param_dtype,
                kernel_init=he_fan_out,
                name="squeeze_excite",
            )(y)
        y = self.conv(self.features, (1, 1), padding=0, name="project_conv")(y)
        y = self.norm(use_running_average=not train, name="project_norm")(y)
        if self.strides == 1 and x.shape[-1] == self.features:
            y = x + StochasticDepth(self.stochastic_depth_rate)(y, train)
        return y
