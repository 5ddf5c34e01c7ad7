"""Activation functions for fields of networks, the classic ones as modules for ``nn.Sequential`` too.

Those of ``jax.nn`` are compiled functions, which do not pickle; these are plain ones, so that networks do. A scope
"layer@..." marks those that `cnnjax.summary` could not tell by their operations.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

# Traced once for each shape, with its derivatives.
_relu = jax.jit(jax.nn.relu, inline=True)


def identity(x: jax.Array) -> jax.Array:
    """Return ``x``."""
    return x


def logistic(x: jax.Array) -> jax.Array:
    """Return 1 / (1 + exp(-x)), the sigmoid, from 0 to 1; exact for large |x| too."""
    return jax.nn.sigmoid(x)


def tanh(x: jax.Array) -> jax.Array:
    """Return (exp(x) - exp(-x)) / (exp(x) + exp(-x)), from -1 to 1."""
    return jnp.tanh(x)


def arctan(x: jax.Array) -> jax.Array:
    """Return the angle whose tangent is ``x``, from -pi/2 to pi/2."""
    return jnp.arctan(x)


def relu(x: jax.Array) -> jax.Array:
    """Return max(x, 0); its slope at 0 is 0.

    Source: Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".
    """
    return _relu(x)


def leaky_relu(x: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    """Return x where it is positive, and ``negative_slope`` times x elsewhere.

    Source: Maas, Hannun and Ng 2013, "Rectifier nonlinearities improve neural network acoustic models".
    """
    return jax.nn.leaky_relu(x, negative_slope)


def elu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Return x where it is positive, and alpha (exp(x) - 1) elsewhere.

    Source: Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289, equation 15.
    """
    return jax.nn.elu(x, alpha)


def relu6(x: jax.Array) -> jax.Array:
    """Return min(max(x, 0), 6).

    Source: Howard et al. 2017, arXiv:1704.04861, as TensorFlow has it.
    """
    return jax.nn.relu6(x)


def silu(x: jax.Array) -> jax.Array:
    """Return x / (1 + exp(-x)), also called swish.

    Source: Ramachandran, Zoph and Le 2017, arXiv:1710.05941.
    """
    return jax.nn.silu(x)


def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """Return x times the normal distribution's share below x; ``approximate``: by a formula with tanh.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    with jax.named_scope("layer@gelu"):
        return jax.nn.gelu(x, approximate=approximate)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return relu6(x + 3) / 6, which is near `logistic`.

    Source: Howard et al. 2019, arXiv:1905.02244, section 5.2.
    """
    return jax.nn.hard_sigmoid(x)


def hard_swish(x: jax.Array) -> jax.Array:
    """Return x times `hard_sigmoid` of x.

    Source: Howard et al. 2019, arXiv:1905.02244, section 5.2.
    """
    return jax.nn.hard_swish(x)


def hard_tanh(x: jax.Array) -> jax.Array:
    """Return ``x``, clipped to -1 and 1."""
    return jax.nn.hard_tanh(x)


def celu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Return x where it is positive, and alpha (exp(x / alpha) - 1) elsewhere.

    Source: Barron 2017, arXiv:1704.07483.
    """
    return jax.nn.celu(x, alpha)


def selu(x: jax.Array) -> jax.Array:
    """Return 1.0507 times `elu` with alpha 1.6733, which keeps mean and variance.

    Source: Klambauer et al. 2017, arXiv:1706.02515.
    """
    return jax.nn.selu(x)


def softplus(x: jax.Array) -> jax.Array:
    """Return log(1 + exp(x)), exact for large |x| too."""
    return jax.nn.softplus(x)


def soft_sign(x: jax.Array) -> jax.Array:
    """Return x / (1 + |x|)."""
    return jax.nn.soft_sign(x)


def log_sigmoid(x: jax.Array) -> jax.Array:
    """Return the logarithm of `logistic`, exact for large |x| too."""
    return jax.nn.log_sigmoid(x)


def maxout(x: jax.Array, pieces: int) -> jax.Array:
    """Return the largest of each ``pieces`` neighbouring features.

    After a dense layer or a convolution of ``pieces`` times as many features, each unit is a convex function with that
    many linear pieces, which is learnt: |x| and ReLU are examples with two.

    Source: Goodfellow et al. 2013, arXiv:1302.4389, section 3.

    Args:
      x: float[..., units * pieces].
      pieces: features that compete for a unit.
    Returns:
      float[..., units].
    Raises:
      ValueError: fewer than 1 piece, or features that are no multiple of ``pieces``.
    """
    features = x.shape[-1]
    if pieces < 1 or features % pieces:
        raise ValueError(f"pieces must be at least 1 and divide the number of features ({features}), got {pieces}")
    with jax.named_scope("layer@maxout"):
        return x.reshape(*x.shape[:-1], features // pieces, pieces).max(-1)


def softmax(x: jax.Array, axis: int = -1) -> jax.Array:
    """Return exp(x) / sum(exp(x)) over ``axis``: numbers from 0 to 1 that sum to 1; exact for large |x| too."""
    with jax.named_scope("layer@softmax"):
        return jax.nn.softmax(x, axis)


class Identity(nn.Module):
    """`identity` as a module."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return identity(x)


class Logistic(nn.Module):
    """`logistic` as a module."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return logistic(x)


class Tanh(nn.Module):
    """`tanh` as a module."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return tanh(x)


class Arctan(nn.Module):
    """`arctan` as a module."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return arctan(x)


class ReLU(nn.Module):
    """`relu` as a module."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return relu(x)


class LeakyReLU(nn.Module):
    """`leaky_relu` as a module."""

    negative_slope: float = 0.01

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return leaky_relu(x, self.negative_slope)


class ELU(nn.Module):
    """`elu` as a module."""

    alpha: float = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return elu(x, self.alpha)


class Maxout(nn.Module):
    """`maxout` as a module: without parameters, to be put after the layer whose features compete."""

    pieces: int

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[..., units * pieces] to float[..., units]."""
        return maxout(x, self.pieces)


class Softmax(nn.Module):
    """`softmax` as a module."""

    axis: int = -1

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply it to ``x``, of any shape."""
        return softmax(x, self.axis)
