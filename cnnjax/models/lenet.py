"""LeNet-5, as published and as taught.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), figure 2, table I and section II.B (older than arXiv).

``lenet5_1998`` is the paper's network: trainable subsampling, the connection table of C3, scaled tanh, and an output of
radial basis functions around fixed codes, which are not trained and not counted. Differs from the paper: the codes are
drawn for this file, since the paper only prints a picture of its own (see `DIGIT_CODES`), and images of more than 32
pixels give C5 more than one position, which are averaged (the paper keeps them apart).

``lenet5`` is the network as lectures teach it. It differs from the paper's: average pooling without trainable
coefficients (the paper's subsampling has two a map), plain tanh (1.7159 tanh(2x/3) there), the second convolution sees
every map (a hand-made connection table there), and a dense layer for the output (radial basis functions there).
28-pixel images are padded by 2 to the 32 pixels of the paper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, avg_pool, global_avg_pool
from cnnjax.nn.activation import tanh
from cnnjax.nn.building import DenseHead, check_images

# Maps or units of layers C1, C3, C5 and F6 (section II.B).
CONV_FEATURES = (6, 16)
DENSE_FEATURES = (120, 84)
# Below this the second 5x5 convolution of ``lenet5`` has nothing left to pool.
MIN_SIZE = 12
# The paper's: what leaves C5 one position.
MIN_SIZE_1998 = 32

# Table I: the maps of S2 that each map of C3 is connected to.
# fmt: off
CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)
# fmt: on

# Target outputs of F6 for the classes 0 to 9: stylised digits, 7 pixels wide and 12 high, # for +1 and . for -1. Figure
# 3 of the paper shows such bitmaps for all of ASCII; these are drawn after its description and are not a copy of them.
DIGIT_CODES = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...##.. ..###.. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. .##.##. #....## ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. ##...## .....## ..##.#. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## .##..#. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. ##...#. ######. ######. ...##.. .#####. .######
##...## ...##.. ...##.. .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. ..##... .....## .....#. .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## .....#. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... #....## .....#. ##...## ##...## .##.... ##...## ....##.
..###.. .###### ####### .#####. .....#. .#####. .#####. .##.... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


def scaled_tanh(x: jax.Array) -> jax.Array:
    """Return 1.7159 tanh(2x/3), which maps 1 to 1 and -1 to -1 (appendix A)."""
    return jnp.asarray(1.7159, x.dtype) * jnp.tanh(jnp.asarray(2 / 3, x.dtype) * x)


def uniform_1998(fan_in: int | None = None) -> Initializer:
    """Return an initialiser: uniform within 2.4 / fan_in (appendix A); None reads fan_in off a kernel's shape."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        limit = 2.4 / (math.prod(shape[:-1]) if fan_in is None else fan_in)
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def output_codes(num_classes: int, features: int) -> np.ndarray:
    """Return the codes of the classes: float32[num_classes, features], each value -1 or +1.

    The first ten are `DIGIT_CODES` where ``features`` is 84. Others are drawn with equal probabilities from a fixed
    seed, which section II.C of the paper names as the alternative.
    """
    codes = np.random.RandomState(0).randint(0, 2, (num_classes, features)) * 2 - 1
    rows = [line.split() for line in DIGIT_CODES.split("\n") if line]
    digits = np.array([[1 if pixel == "#" else -1 for pixel in "".join(glyph)] for glyph in zip(*rows, strict=True)])
    if features == digits.shape[1]:
        codes[:10] = digits[:num_classes]
    return codes.astype(np.float32)


class TableConv(nn.Module):
    """Convolve with 5x5 kernels, where map i of the output sees only the maps of row i of a connection table.

    Neighbouring rows of equal length are one grouped convolution over copies of the maps they name.

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, height - 4, width - 4, len(connections)].
    """

    connections: tuple[tuple[int, ...], ...]
    conv: Callable[..., Conv]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the convolution to ``x``."""
        maps = []
        for index, (_, group) in enumerate(itertools.groupby(self.connections, len), start=1):
            rows = list(group)
            seen = x[..., np.concatenate(rows)]
            maps.append(self.conv(len(rows), feature_group_count=len(rows), name=f"branch{index}")(seen))
        return jnp.concatenate(maps, axis=-1)


class Subsampling(nn.Module):
    """Add the values of 2x2 windows, multiply by a trainable coefficient and add a trainable bias, one of each per map.

    Args:
      x: float[batch, height, width, features].
    Returns:
      float[batch, height // 2, width // 2, features].
    """

    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer to ``x``."""
        scale = self.param("scale", uniform_1998(4), (x.shape[-1],), self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype).astype(self.dtype)
        total = 4 * avg_pool(x.astype(self.dtype), 2)
        return total * scale.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1)


class RadialBasisOutput(nn.Module):
    """Compare with the fixed code of each class: logits -sum_j (x_j - code_ij)^2 (equation 7, negated).

    The softmax cross-entropy of these logits is the paper's criterion of equation 9 without its constant term.

    Args:
      x: float[batch, features].
    Returns:
      float32[batch, num_classes], none of them positive.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of ``x``."""
        codes = jnp.asarray(output_codes(self.num_classes, x.shape[-1]))
        return -jnp.square(x.astype(jnp.float32)[:, None, :] - codes[None]).sum(-1)


class Stage1998(nn.Module):
    """A convolution and a subsampling layer, each squashed: C1 and S2, or C3 and S4."""

    conv: Callable[..., nn.Module]
    subsampling: Callable[..., Subsampling]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[batch, height, width, in_features] to [batch, (height - 4) // 2, (width - 4) // 2, features]."""
        x = self.activation(self.conv(name="conv1")(x))
        return self.activation(self.subsampling(name="subsampling1")(x))


class Last1998(nn.Module):
    """C5: a convolution that sees all maps, squashed."""

    conv: Callable[..., Conv]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[batch, height, width, in_features] to [batch, height - 4, width - 4, features]."""
        return self.activation(self.conv(name="conv1")(x))


class Head1998(nn.Module):
    """F6 and the output layer.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float32[batch, num_classes] logits; float32[batch, features] of F6 when ``num_classes`` is 0.
    """

    num_classes: int
    features: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of ``x``."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = nn.Dense(self.features, kernel_init=uniform_1998(), **types, name="dense1")
        x = self.activation(dense(global_avg_pool(x)))
        if self.num_classes > 0:
            x = RadialBasisOutput(self.num_classes, name="classifier")(x)
        return x.astype(jnp.float32)


class LeNet1998(nn.Module):
    """LeNet-5 of 1998: C1, S2, C3, S4, C5, F6 and an output of radial basis functions.

    ``head/classifier`` has no parameters. Up to ten classes have the codes of the digits; more get random ones.

    Source: LeCun et al. 1998, figure 2 and section II.B; differs: see the head of this file.

    Args:
      images: float[batch, height, width, channels], 32 pixels or more; published for 32x32x1, background -0.1 and
        ink 1.175.
      train: no layer of this network depends on it.
    Returns:
      float32[batch, num_classes] logits, before softmax: the negated squared distances to the classes' codes;
      float32[batch, 84] when ``num_classes`` is 0.
    Raises:
      ValueError: height or width under 32 pixels.
    """

    num_classes: int = 10
    connections: tuple[tuple[int, ...], ...] = CONNECTIONS
    activation: Callable[[jax.Array], jax.Array] = scaled_tanh
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE_1998)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_size=(5, 5), padding=0, kernel_init=uniform_1998(), **types)
        subsampling = partial(Subsampling, **types)
        stage = nn.remat(Stage1998) if self.remat else Stage1998
        last = nn.remat(Last1998) if self.remat else Last1998

        x = stage(partial(conv, CONV_FEATURES[0]), subsampling, self.activation, name="stage1")(images)
        x = stage(partial(TableConv, self.connections, conv), subsampling, self.activation, name="stage2")(x)
        x = last(partial(conv, DENSE_FEATURES[0]), self.activation, name="stage3")(x)
        return Head1998(self.num_classes, DENSE_FEATURES[1], self.activation, **types, name="head")(x)


class LeNetStage(nn.Module):
    """Convolve with 5x5 kernels, normalise if ``batch_norm``, squash, and halve by averaging 2x2 windows.

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, out_height // 2, out_width // 2, features], where ``padding`` decides the convolution's out_height.
    """

    features: int
    padding: int
    activation: Callable[[jax.Array], jax.Array]
    batch_norm: bool
    axis_name: str | None
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # A normalisation subtracts whatever bias there was before it.
        x = Conv(self.features, (5, 5), padding=self.padding, use_bias=not self.batch_norm, **types, name="conv1")(x)
        if self.batch_norm:
            x = BatchNorm(axis_name=self.axis_name, **types, name="norm1")(x, use_running_average=not train)
        return avg_pool(self.activation(x), 2)


class LeNet(nn.Module):
    """LeNet-5 as taught: two convolutions with pooling, three dense layers.

    Source: LeCun et al. 1998, figure 2; differs: see the head of this file.

    Attributes:
      batch_norm: normalise after each convolution, before the activation; the convolutions have no bias then.
      dropout_rate: share of the values dropped before each hidden dense layer and before the classifier.

    Args:
      images: float[batch, height, width, channels], 12 pixels or more; published for 28x28x1.
      train: True applies dropout and normalises with the batch's statistics, where there is any of it.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 84] when ``num_classes`` is 0.
    Raises:
      ValueError: height or width under 12 pixels.
    """

    num_classes: int = 10
    conv_features: tuple[int, int] = CONV_FEATURES
    dense_features: tuple[int, ...] = DENSE_FEATURES
    activation: Callable[[jax.Array], jax.Array] = tanh
    batch_norm: bool = False
    dropout_rate: float = 0.0
    axis_name: str | None = None
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        first, second = self.conv_features
        types: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
        stage = nn.remat(LeNetStage, static_argnums=(2,)) if self.remat else LeNetStage
        norms: dict[str, Any] = {"batch_norm": self.batch_norm, "axis_name": self.axis_name}
        x = stage(first, padding=2, **norms, **types, name="stage1")(images, train)
        x = stage(second, padding=0, **norms, **types, name="stage2")(x, train)
        init = nn.linear.default_kernel_init
        rates = (self.dropout_rate,) * (len(self.dense_features) + 1)
        head = DenseHead(
            self.num_classes, self.dense_features, dropout_rates=rates, kernel_init=init, **types, name="head"
        )
        return head(x, train)


PAPER = "LeCun et al. 1998, Proceedings of the IEEE 86(11), figure 2"

VARIANTS = {
    "lenet5": Variant(
        LeNet,
        {},
        ModelInfo(
            family="lenet",
            paper=PAPER,
            num_params=61_706,
            num_classes=10,
            input_size=(28, 28),
            channels=1,
            min_size=MIN_SIZE,
            # Mean and standard deviation of the 60,000 training images of MNIST.
            mean=(0.1307,),
            std=(0.3081,),
        ),
    ),
    "lenet5_1998": Variant(
        LeNet1998,
        {},
        ModelInfo(
            family="lenet",
            paper=PAPER,
            num_params=60_000,
            num_classes=10,
            input_size=(32, 32),
            channels=1,
            min_size=MIN_SIZE_1998,
            # Section II.B: background -0.1, ink 1.175.
            mean=(0.1 / 1.275,),
            std=(1 / 1.275,),
        ),
    ),
}
