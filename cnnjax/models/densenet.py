"""DenseNet for ImageNet and CIFAR.

Huang, Liu, van der Maaten and Weinberger 2017, "Densely connected convolutional networks", arXiv:1608.06993v5, tables 1
and 2.

Each layer reads the outputs of all layers before it in its block and adds ``growth_rate`` features to them. DenseNet-B
puts a 1x1 convolution to 4 k features before each 3x3 one, DenseNet-C halves the features between blocks; all but
``densenet_40_12`` do both. Differs from the paper, as torchvision does: dropout follows the 3x3 convolutions only
(every convolution but the first there).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, avg_pool, he_fan_in, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ClassifierHead, check_images


class Row(NamedTuple):
    """A network of the paper's tables.

    Published with it: parameters, multiply-adds (1e9), top-1 accuracy on ImageNet and error on CIFAR-10 (percent).
    """

    stage_sizes: tuple[int, ...]
    growth_rate: int
    features: int
    bottleneck: bool
    compression: float
    num_params: int
    gmacs: float
    top1: float | None = None
    cifar_error: float | None = None


HUANG2017 = "Huang et al. 2017, arXiv:1608.06993"
# fmt: off
# Table 1 (161: of its earlier revisions); multiply-adds and top-1 are torchvision's, V1 weights.
IMAGENET = {
    "densenet121": Row((6, 12, 24, 16), 32, 64, True, 0.5, 7_978_856,  2.834, 74.434),
    "densenet161": Row((6, 12, 36, 24), 48, 96, True, 0.5, 28_681_000, 7.728, 77.138),
    "densenet169": Row((6, 12, 32, 32), 32, 64, True, 0.5, 14_149_480, 3.360, 75.600),
    "densenet201": Row((6, 12, 48, 32), 32, 64, True, 0.5, 20_013_928, 4.291, 76.896),
}
# Table 2, augmented data: three blocks of equal size; 16 features before the first block, or 2 k in DenseNet-BC.
CIFAR = {
    "densenet_40_12":     Row((12, 12, 12), 12, 16, False, 1.0, 1_019_722,  0.2648, cifar_error=5.24),
    "densenet_bc_100_12": Row((16, 16, 16), 12, 24, True,  0.5, 769_162,    0.2879, cifar_error=4.51),
    "densenet_bc_190_40": Row((31, 31, 31), 40, 80, True,  0.5, 25_624_430, 9.302,  cifar_error=3.46),
}
# fmt: on
# Section 3, "bottleneck layers": features of the 1x1 convolutions, in growth rates.
BOTTLENECK = 4

ModuleDef = Callable[..., Any]


class DenseLayer(nn.Module):
    """H of equation 2: normalisation, activation and 3x3 convolution; before them the same with 1x1 in bottlenecks.

    Args:
      x: float[batch, height, width, in_features], outputs of all layers before.
      train: True normalises with the batch's statistics and applies dropout.
    Returns:
      float[batch, height, width, growth_rate].
    """

    growth_rate: int
    bottleneck: bool
    dropout_rate: float
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the new features that ``x`` gives."""
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        if self.bottleneck:
            x = self.conv(BOTTLENECK * self.growth_rate, (1, 1), padding=0, name="conv1")(x)
            x = self.activation(self.norm(use_running_average=not train, name="norm2")(x))
        x = self.conv(self.growth_rate, (3, 3), padding=1, name="conv2" if self.bottleneck else "conv1")(x)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class Transition(nn.Module):
    """Between blocks: normalisation, activation, 1x1 convolution, and the mean of each 2x2 window.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height // 2, width // 2, floor(compression * in_features)].
    """

    compression: float
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the transition to ``x``."""
        features = int(self.compression * x.shape[-1])
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        return avg_pool(self.conv(features, (1, 1), padding=0, name="conv1")(x), 2)


class Stem(nn.Module):
    """First convolution: 7x7 with stride 2, normalised, and a 3x3 max pool of stride 2 (ImageNet), or 3x3 (CIFAR)."""

    features: int
    small_images: bool
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map float[batch, height, width, channels] to [batch, height / 4 or height, width / 4 or width, features]."""
        if self.small_images:
            return self.conv(self.features, (3, 3), padding=1, name="conv1")(x)
        x = self.conv(self.features, (7, 7), strides=2, padding=3, name="conv1")(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        return max_pool(x, 3, 2, padding=1)


class Stage(nn.Module):
    """A dense block, in all stages but the first after a transition that halves the resolution (figure 2)."""

    size: int
    make_layer: Callable[..., DenseLayer]
    make_transition: Callable[..., Transition] | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the input of the block and the outputs of all its layers, side by side."""
        if self.make_transition is not None:
            x = self.make_transition(name="transition")(x, train)
        for index in range(1, self.size + 1):
            x = jnp.concatenate([x, self.make_layer(name=f"block{index}")(x, train)], axis=-1)
        return x


class DenseNet(nn.Module):
    """DenseNet: stem, dense blocks with transitions between them, a last normalisation, average pooling, classifier.

    Source: Huang et al. 2017, arXiv:1608.06993, table 1 and section 3; differs: see the head of this file.

    Attributes:
      stage_sizes: layers of each dense block.
      growth_rate: features a layer adds, k in the paper.
      features: of the first convolution.
      bottleneck: 1x1 convolutions before the 3x3 ones (DenseNet-B).
      compression: part of the features that a transition keeps, theta in the paper (DenseNet-C: below 1).
      small_images: the stem of the CIFAR networks.
      dropout_rate: of each layer's new features; the paper takes 0.2 on CIFAR without augmentation.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 29 pixels or more (4 for the
        CIFAR networks).
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop features.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    stage_sizes: tuple[int, ...]
    growth_rate: int
    features: int
    bottleneck: bool = True
    compression: float = 0.5
    small_images: bool = False
    num_classes: int = 1000
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the last transition."""
        pooled = 2 ** (len(self.stage_sizes) - 1)
        # The stem rounds up twice, the transitions round down.
        return pooled if self.small_images else 4 * pooled - 3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_in, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        layers: dict[str, Any] = {"conv": conv, "norm": norm, "activation": self.activation}
        layer = partial(DenseLayer, self.growth_rate, self.bottleneck, self.dropout_rate, **layers)
        transition = partial(Transition, self.compression, **layers)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(self.features, self.small_images, **layers, name="stem")(images, train)
        for index, size in enumerate(self.stage_sizes, start=1):
            x = stage_class(size, layer, transition if index > 1 else None, name=f"stage{index}")(x, train)
        return ClassifierHead(self.num_classes, norm=norm, activation=self.activation, **types, name="head")(x, train)


def _variant(row: Row) -> Variant:
    facts: dict[str, Any] = {
        "paper": f"{HUANG2017}, table 1",
        "top1": row.top1,
        "weights": "torchvision IMAGENET1K_V1",
        "min_size": 29,
    }
    if row.cifar_error is not None:
        facts = {
            "paper": f"{HUANG2017}, table 2",
            "result": f"error {row.cifar_error} % (CIFAR-10)",
            "num_classes": 10,
            "input_size": (32, 32),
            "min_size": 4,
            "mean": CIFAR10_MEAN,
            "std": CIFAR10_STD,
        }
    columns = ("stage_sizes", "growth_rate", "features", "bottleneck", "compression")
    fields = {column: getattr(row, column) for column in columns}
    info = ModelInfo(family="densenet", num_params=row.num_params, gmacs=row.gmacs, **facts)
    return Variant(DenseNet, {**fields, "small_images": row.cifar_error is not None}, info)


VARIANTS = {name: _variant(row) for name, row in (IMAGENET | CIFAR).items()}
