"""AlexNet: the network of 2012, and its successor in one column.

Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural networks", NIPS 25,
section 3.5 and figure 2 (not on arXiv).
Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997v2, section 5.

``alexnet`` is the network of 2012: the kernels of the second, fourth and fifth convolution see half of the maps (two
groups, one a GPU). Differs from the paper: 227-pixel images (224, as printed, does not give the 55x55 maps of figure
2), and response normalisation sums across the border of the two halves (the paper leaves it open).
``alexnet_owt`` is torchvision's ``alexnet``: one column, no response normalisation, fewer maps, and dropout before the
first two dense layers where the paper drops their outputs. Its biases start at 0 (within 1 / sqrt(inputs) there).

In both, maps of images of another size are averaged to the 6x6 of the dense layers, as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, local_response_norm, max_pool, torch_uniform
from cnnjax.nn.activation import relu
from cnnjax.nn.building import DenseHead, check_images
from cnnjax.nn.initializers import Drawn

# Height and width of the maps that the dense layers take.
POOL_SIZE = 6


class Row(NamedTuple):
    """Kernels of the five convolutions, and what else the two papers do differently."""

    features: tuple[int, int, int, int, int]
    groups: int
    response_norm: bool
    padding: int
    dropout_inputs: tuple[bool, bool, bool]


ROWS = {
    # Section 3.5: "96 kernels of size 11x11x3 with a stride of 4 pixels", 256 of 5x5x48, ...
    "alexnet": Row((96, 256, 384, 384, 256), 2, True, 0, (False, True, True)),
    # arXiv:1404.5997, section 5, as torchvision reads it.
    "alexnet_owt": Row((64, 192, 384, 256, 256), 1, False, 2, (True, True, False)),
}


class Stage(nn.Module):
    """Rectified convolutions, response normalisation, and a 3x3 max pool of stride 2 ("overlapping", section 3.4).

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, (out_height - 1) // 2, (out_width - 1) // 2, out_features] of the last convolution.
    """

    convs: tuple[Callable[..., Conv], ...]
    response_norm: bool
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the stage to ``x``."""
        for index, conv in enumerate(self.convs, start=1):
            x = self.activation(conv(name=f"conv{index}")(x))
        if self.response_norm:
            x = local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0)
        return max_pool(x, 3, 2)


class AlexNet(nn.Module):
    """AlexNet: five convolutions in three stages, two hidden dense layers, classifier.

    Source: Krizhevsky et al. 2012, section 3.5; differs: see the head of this file.

    Attributes:
      features: kernels of the five convolutions.
      groups: groups of the second, fourth and fifth convolution.
      response_norm: normalise after the first and second convolution.
      padding: of the first convolution, pixels a side.
      pool_size: height and width of the maps that the dense layers take; others are averaged to it.
      dense_features: units of the hidden dense layers.
      dropout_rate, dropout_inputs: rate, and which of the three dense layers have their input dropped.
      bias_init: of the second, fourth and fifth convolution and the hidden dense layers (1 in the paper); other
        biases start at 0.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean per channel; 67 pixels or more (63 when padded by 2).
      train: True drops units.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 4096] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    features: tuple[int, int, int, int, int]
    num_classes: int = 1000
    groups: int = 1
    response_norm: bool = False
    padding: int = 2
    pool_size: int = POOL_SIZE
    dense_features: tuple[int, int] = (4096, 4096)
    dropout_rate: float = 0.5
    dropout_inputs: tuple[bool, bool, bool] = (True, True, False)
    activation: Callable[[jax.Array], jax.Array] = relu
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer = nn.initializers.zeros
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        # Fifteen positions of the first convolution: what three pools need to leave one.
        check_images(images, min_size=67 - 2 * self.padding)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": self.kernel_init}
        conv = partial(Conv, **types)
        grouped = partial(conv, feature_group_count=self.groups, bias_init=self.bias_init)
        first, second, third, fourth, fifth = self.features
        stage = partial(nn.remat(Stage) if self.remat else Stage, activation=self.activation)

        conv1 = partial(conv, first, (11, 11), strides=4, padding=self.padding)
        x = stage((conv1,), self.response_norm, name="stage1")(images)
        x = stage((partial(grouped, second, (5, 5), padding=2),), self.response_norm, name="stage2")(x)
        convs = (
            partial(conv, third, (3, 3), padding=1),
            partial(grouped, fourth, (3, 3), padding=1),
            partial(grouped, fifth, (3, 3), padding=1),
        )
        x = stage(convs, False, name="stage3")(x)
        return DenseHead(
            self.num_classes,
            self.dense_features,
            self.pool_size,
            tuple(self.dropout_rate if dropped else 0.0 for dropped in self.dropout_inputs),
            self.activation,
            bias_init=self.bias_init,
            **types,
            name="head",
        )(x, train)


# Section 5 of the paper: kernels from N(0, 0.01^2), the biases named there start at 1.
INIT_2012 = {"kernel_init": Drawn(nn.initializers.normal, (0.01,)), "bias_init": nn.initializers.ones}

VARIANTS = {
    "alexnet": Variant(
        AlexNet,
        ROWS["alexnet"]._asdict() | INIT_2012,
        ModelInfo(
            family="alexnet",
            paper="Krizhevsky et al. 2012, NIPS 25, section 3.5",
            num_params=60_965_224,
            input_size=(227, 227),
            min_size=67,
            top1=59.3,
            weights="the paper's, table 2 (one network, ten crops)",
        ),
    ),
    "alexnet_owt": Variant(
        AlexNet,
        ROWS["alexnet_owt"]._asdict(),
        ModelInfo(
            family="alexnet",
            paper="Krizhevsky 2014, arXiv:1404.5997, section 5",
            num_params=61_100_840,
            min_size=63,
            gmacs=0.714,
            top1=56.522,
            weights="torchvision IMAGENET1K_V1",
        ),
    ),
}
