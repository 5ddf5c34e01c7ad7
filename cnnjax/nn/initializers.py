"""Initial values that published networks start from, beyond those of ``flax.linen.initializers``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
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


# Normal with variance 2 / (outputs * kernel area). He et al. 2015, arXiv:1502.01852, equation 14; torchvision's
# choice for convolutions before ReLU.
he_fan_out: Initializer = Drawn(nn.initializers.variance_scaling, (2.0, "fan_out", "normal"))

# Normal with variance 2 / (inputs * kernel area). He et al. 2015, arXiv:1502.01852, equation 10; PyTorch's
# "kaiming_normal_" as it comes.
he_fan_in: Initializer = Drawn(nn.initializers.variance_scaling, (2.0, "fan_in", "normal"))

# Uniform within 1 / sqrt(inputs * kernel area): PyTorch's default for convolutions and dense layers, which
# torchvision's reference results were trained from.
torch_uniform: Initializer = Drawn(nn.initializers.variance_scaling, (1 / 3, "fan_in", "uniform"))
