"""Initial values that published networks start from, beyond those of ``flax.linen.initializers``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a function of ``flax.linen.initializers`` returns, for fields of networks: it pickles, and equals its like.

    Attributes:
      rule: the function, such as ``flax.linen.initializers.normal``.
      values: its arguments.
    """

    rule: Callable[..., Initializer]
    values: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw; arguments are those of any initializer: key, shape, dtype."""
        return self.rule(*self.values)(*args, **kwargs)


def variance_scaling(
    scale: float, mode: Literal["fan_in", "fan_out"], distribution: Literal["normal", "truncated_normal", "uniform"]
) -> Initializer:
    """Return ``flax.linen.initializers.variance_scaling`` of these arguments: the same numbers, compiled sooner.

    XLA's CPU compiler takes up to three times as long for random numbers in four dimensions as in a row. What is drawn
    depends on the place in that row alone, and its variance on the fan, by which ``scale`` is divided here.
    """

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            # Its error says what is missing.
            return nn.initializers.variance_scaling(scale, mode, distribution)(key, shape, dtype)
        *window, inputs, outputs = shape
        fan = math.prod(window) * (inputs if mode == "fan_in" else outputs)
        numbers = (1, math.prod(shape)) if mode == "fan_in" else (math.prod(shape), 1)
        return nn.initializers.variance_scaling(scale / fan, mode, distribution)(key, numbers, dtype).reshape(shape)

    return init


# Normal with variance 2 / (outputs * kernel area). He et al. 2015, arXiv:1502.01852, equation 14; torchvision's
# choice for convolutions before ReLU.
he_fan_out: Initializer = Drawn(variance_scaling, (2.0, "fan_out", "normal"))

# Normal with variance 2 / (inputs * kernel area). He et al. 2015, arXiv:1502.01852, equation 10; PyTorch's
# "kaiming_normal_" as it comes.
he_fan_in: Initializer = Drawn(variance_scaling, (2.0, "fan_in", "normal"))

# Uniform within 1 / sqrt(inputs * kernel area): PyTorch's default for convolutions and dense layers, which
# torchvision's reference results were trained from.
torch_uniform: Initializer = Drawn(variance_scaling, (1 / 3, "fan_in", "uniform"))


def identity_kernel(rest: Initializer) -> Initializer:
    """Return an initializer of convolutions that hand their inputs through, as far as they have as many filters.

    Of a kernel [window..., inputs, outputs], filter i < inputs is 1 at input i in the middle of the window and 0
    elsewhere; where there are fewer filters than inputs, all are so. The other filters, and kernels of dense layers
    (two dimensions), are drawn by ``rest``.

    Source: Zagoruyko and Komodakis 2017, arXiv:1706.00388 (Dirac parameterization), as an initial value alone, as in
    Jordan 2024, arXiv:2404.00498, section 3.
    """

    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        drawn = rest(key, shape, dtype)
        if len(shape) < 3:
            return drawn
        *window, inputs, outputs = shape
        count = min(inputs, outputs)
        # Under the padding "SAME", an even window has its middle before the half.
        middle = tuple((size - 1) // 2 for size in window)
        identity = jnp.zeros((*window, inputs, count), dtype).at[middle].set(jnp.eye(inputs, count, dtype=dtype))
        return jnp.concatenate([identity, drawn[..., count:]], axis=-1)

    return draw


# Filters that hand their inputs through first, and `torch_uniform` ones behind them.
dirac: Initializer = Drawn(identity_kernel, (torch_uniform,))
