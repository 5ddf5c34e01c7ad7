"""NASNet-A: two cells found by architecture search, stacked into networks for mobile phones and for accuracy.

Zoph, Vasudevan, Shlens and Le 2017, "Learning transferable architectures for scalable image recognition",
arXiv:1707.07012v4, figures 2 (networks) and 4 (cells), table 2 (4 @ 1056 and 6 @ 4032).

As in Keras, whose weights these networks take: batch normalisation with epsilon 1e-3 and momentum 0.9997, TensorFlow's
padding, zeros around what a reduction cell pools (``pool_padding="SAME"`` lets no zero win a maximum, as in timm), no
auxiliary classifier. The paper trains with dropout of 0.5 before the classifier, 0 here as in Keras, and drops paths
with a probability that grows in the course of training: here it grows with depth and its limit is a field.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, StochasticDepth, avg_pool, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ClassifierHead, check_images, stochastic_depth_rates


class Row(NamedTuple):
    """A network: N normal cells a stage @ width of the penultimate layer.

    Multiply-adds (1e9) and top-1 (%) are the paper's, parameters Keras's.
    """

    repeats: int
    penultimate_features: int
    stem_features: int
    skip_reduction: bool
    input_size: int
    num_params: int
    gmacs: float
    top1: float


# arXiv:1707.07012, table 2; stem and skip as in the authors' implementation
TABLE_2 = {
    "nasnet_mobile": Row(4, 1056, 32, False, 224, 5_289_978, 0.564, 74.0),
    "nasnet_large": Row(6, 4032, 96, True, 331, 88_753_150, 23.8, 82.7),
}
# Figure 2: width of each stage's reduction and normal cells, in 96ths of the penultimate layer's; the authors make the
# first two reductions narrower, and put no normal cell behind the first.
STAGE_WIDTHS = ((1, 0), (2, 4), (8, 8), (16, 16))
# Below this a reduction cell has a single pixel left to halve.
MIN_SIZE = 19

ModuleDef = Callable[..., Any]


class SeparableConvs(nn.Module):
    """Activate, convolve channel by channel, mix the channels, normalise; twice, as in every operation of the search.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    kernel_size: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the layers to ``x``."""
        for number, strides in enumerate((self.strides, 1), start=1):
            channels = x.shape[-1]
            x = self.conv(
                channels,
                (self.kernel_size, self.kernel_size),
                strides=strides,
                feature_group_count=channels,
                name=f"depthwise_conv{number}",
            )(self.activation(x))
            x = self.conv(self.features, (1, 1), name=f"pointwise_conv{number}")(x)
            x = self.norm(use_running_average=not train, name=f"norm{number}")(x)
        return x


class Fit(nn.Module):
    """Bring the output of an earlier cell to the width of this cell, and to its size if that is half as large.

    Halving takes every second pixel twice, the second time one further down and right, with half the features each.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height, width, features]; float[batch, ceil(height / 2), ceil(width / 2), features] when halved.
    """

    features: int
    halve: bool
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Fit ``x``."""
        x = self.activation(x)
        if self.halve:
            shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
            first = self.conv(self.features // 2, (1, 1), name="conv1")(x[:, ::2, ::2])
            second = self.conv(self.features // 2, (1, 1), name="conv2")(shifted[:, ::2, ::2])
            x = jnp.concatenate([first, second], axis=-1)
        else:
            x = self.conv(self.features, (1, 1), name="proj_conv")(x)
        return self.norm(use_running_average=not train, name="norm1")(x)


class Cell(nn.Module):
    """What the two cells share: the width of their inputs, and the operations they combine.

    Args:
      x: float[batch, height, width, in_features], output of the cell before.
      previous: output of a cell before that, of the size of ``x`` or twice that (``halve``); None stands for ``x``.
      train: True normalises with the batch's statistics and may drop paths.
    Returns:
      float[batch, out_height, out_width, out_features].
    """

    features: int
    halve: bool
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    stochastic_depth_rate: float
    pool_padding: Literal["zeros", "SAME"]

    def combine(self, h: jax.Array, p: jax.Array, train: bool) -> jax.Array:
        """Return the cell's output for its inputs of equal width, ``h`` from the cell before and ``p`` from earlier."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: jax.Array, previous: jax.Array | None, train: bool) -> jax.Array:
        """Apply the cell to the outputs of two cells before it."""
        p = x if previous is None else previous
        # With one normal cell a stage, stage 3 meets an earlier output that fits as it is.
        if previous is not None and (self.halve or previous.shape[-1] != self.features):
            fit = Fit(self.features, self.halve, self.conv, self.norm, self.activation, name="previous")
            p = fit(p, train)
        h = self.conv(self.features, (1, 1), name="conv1")(self.activation(x))
        h = self.norm(use_running_average=not train, name="norm1")(h)
        return self.combine(h, p, train)

    def drop(self, x: jax.Array, train: bool) -> jax.Array:
        """Drop a path of the cell at random."""
        return StochasticDepth(self.stochastic_depth_rate)(x, train)

    def separable(self, x: jax.Array, kernel_size: int, train: bool, *, strides: int = 1, name: str) -> jax.Array:
        """Apply one of the cell's separable convolutions."""
        convs = SeparableConvs(self.features, kernel_size, strides, self.conv, self.norm, self.activation, name=name)
        return self.drop(convs(x, train), train)

    def average(self, x: jax.Array, train: bool) -> jax.Array:
        """Average over 3x3 pixels."""
        return self.drop(avg_pool(x, 3, 1, padding="SAME", count_include_pad=False), train)


class NormalCell(Cell):
    """Five sums of two operations each, side by side with ``p`` (figure 4, left): six times as wide as ``features``."""

    def combine(self, h: jax.Array, p: jax.Array, train: bool) -> jax.Array:
        """Return the cell's output."""
        sums = (
            self.separable(h, 5, train, name="left1") + self.separable(p, 3, train, name="right1"),
            self.separable(p, 5, train, name="left2") + self.separable(p, 3, train, name="right2"),
            self.average(h, train) + p,
            self.average(p, train) + self.average(p, train),
            self.separable(h, 3, train, name="left5") + h,
        )
        return jnp.concatenate([p, *sums], axis=-1)


class ReductionCell(Cell):
    """Five sums of two operations each, of which four leave the cell (figure 4, right), at half the resolution."""

    def combine(self, h: jax.Array, p: jax.Array, train: bool) -> jax.Array:
        """Return the cell's output."""
        strided = partial(self.separable, train=train, strides=2)
        largest = self.pool(max_pool, h)
        first = strided(h, 5, name="left1") + strided(p, 7, name="right1")
        second = self.drop(largest, train) + strided(p, 7, name="right2")
        third = self.drop(self.pool(avg_pool, h), train) + strided(p, 5, name="right3")
        fourth = self.average(first, train) + second
        fifth = self.separable(first, 3, train, name="left5") + self.drop(largest, train)
        return jnp.concatenate([second, third, fourth, fifth], axis=-1)

    def pool(self, pool: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
        """Pool 3x3 pixels with stride 2; the average counts the zeros around ``x`` whatever the padding."""
        if pool is max_pool and self.pool_padding == "SAME":
            return pool(x, 3, 2, padding="SAME")
        pads = [(0, 0), *((size % 2, 1) for size in x.shape[1:3]), (0, 0)]
        return pool(jnp.pad(x, pads), 3, 2)


class Stem(nn.Module):
    """3x3 convolution of stride 2 without padding.

    Args:
      x: float[batch, height, width, channels].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, (height - 1) // 2, (width - 1) // 2, features].
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stem to ``x``."""
        x = self.conv(self.features, (3, 3), strides=2, padding="VALID", name="conv1")(x)
        return self.norm(use_running_average=not train, name="norm1")(x)


class Stage(nn.Module):
    """A reduction cell and the normal cells behind it.

    Args:
      outputs: outputs of the stem and all cells so far; those of this stage's cells are appended.
      train: handed to the cells.
    Returns:
      float[batch, height, width, features], the output of the last cell.
    """

    cells: tuple[Callable[..., Cell], ...]
    skip_reduction: bool

    @nn.compact
    def __call__(self, outputs: list[jax.Array], train: bool) -> jax.Array:
        """Apply the cells to the last of ``outputs``."""
        for index, make_cell in enumerate(self.cells, start=1):
            # The cell behind a reduction may look past the reduction's input, to what that looked back at itself.
            steps_back = 3 if index == 2 and self.skip_reduction else 2
            previous = outputs[-steps_back] if len(outputs) >= steps_back else None
            halve = index == 2 or (index == 1 and len(outputs) == 2)
            outputs.append(make_cell(halve=halve, name=f"block{index}")(outputs[-1], previous, train))
        return outputs[-1]


class NASNet(nn.Module):
    """NASNet-A: stem, stages of a reduction cell and normal cells, global average pooling, classifier.

    Source: Zoph et al. 2017, arXiv:1707.07012, figures 2 and 4; differs: see the head of this file.

    Attributes:
      repeats: normal cells in each stage but the first, which is a reduction cell only (N in the paper).
      penultimate_features: width of the last map, a multiple of 96 (its number in the paper's notation N @ width).
      stem_features: width of the stem.
      skip_reduction: the first normal cell of stages 3 and 4 looks past the reduction cell's input.
      pool_padding: around the max pools of reduction cells: "zeros", which may win, or "SAME".
      norm_momentum: of the running statistics, in Flax's sense; the published one suits millions of steps.
      dropout_rate: before the classifier; 0.5 in the paper.
      stochastic_depth_rate: probability to drop each path of the last cell, rising linearly from 0 in the first.
      remat: recompute the inside of each cell in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 19 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small, or a width that the cells do not divide.
    """

    repeats: int
    penultimate_features: int
    stem_features: int
    skip_reduction: bool
    num_classes: int = 1000
    pool_padding: Literal["zeros", "SAME"] = "zeros"
    norm_momentum: float = 0.9997
    dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        if self.penultimate_features % 96:
            raise ValueError(f"penultimate_features must be a multiple of 96, got {self.penultimate_features}")
        if self.pool_padding not in ("zeros", "SAME"):
            raise ValueError(f"pool_padding must be 'zeros' or 'SAME', got {self.pool_padding!r}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bare_conv = partial(Conv, use_bias=False, padding="SAME", **types)
        norm = partial(
            BatchNorm,
            momentum=self.norm_momentum,
            epsilon=1e-3,
            unbiased_running_var=False,
            axis_name=self.axis_name,
            **types,
        )
        conv = partial(bare_conv, kernel_init=nn.initializers.glorot_uniform())
        cell_options: dict[str, Any] = {
            "conv": conv,
            "norm": norm,
            "activation": self.activation,
            "pool_padding": self.pool_padding,
        }
        normal, reduction = (
            partial(nn.remat(cell, static_argnums=(3,)) if self.remat else cell, **cell_options)
            for cell in (NormalCell, ReductionCell)
        )

        stem_conv = partial(bare_conv, kernel_init=nn.initializers.he_normal())
        outputs = [Stem(self.stem_features, stem_conv, norm, name="stem")(images, train)]
        unit = self.penultimate_features // 96
        stages = [
            (partial(reduction, features=unit * first),)
            + (partial(normal, features=unit * rest),) * (self.repeats if rest > 0 else 0)
            for first, rest in STAGE_WIDTHS
        ]
        rates = stochastic_depth_rates(self.stochastic_depth_rate, tuple(map(len, stages)))
        for index, (cells, stage_rates) in enumerate(zip(stages, rates, strict=True), start=1):
            skip = self.skip_reduction and index > 2
            dropping = tuple(
                partial(cell, stochastic_depth_rate=rate) for cell, rate in zip(cells, stage_rates, strict=True)
            )
            x = Stage(dropping, skip, name=f"stage{index}")(outputs, train)
        return ClassifierHead(
            self.num_classes,
            self.dropout_rate,
            kernel_init=nn.initializers.glorot_uniform(),
            **types,
            name="head",
        )(self.activation(x), train)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="nasnet",
        paper="Zoph et al. 2017, arXiv:1707.07012, table 2",
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights="the paper's, table 2",
        input_size=(row.input_size,) * 2,
        min_size=MIN_SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    fields = ("repeats", "penultimate_features", "stem_features", "skip_reduction")
    return Variant(NASNet, {field: getattr(row, field) for field in fields}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE_2.items()}
