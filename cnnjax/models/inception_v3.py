"""Inception v3.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2015, "Rethinking the Inception architecture for computer vision",
arXiv:1512.00567v3, table 1 and figures 5 to 10.

The network is that of the TensorFlow release and of torchvision, which the paper's table leaves open in parts: a 1x1
convolution to 80 channels in place of the table's 3x3, 5x5 kernels in the first modules (figure 4, not 5), and 7x7
kernels of 128 to 192 channels. torchvision's version is the default. Keras's has no auxiliary classifier, no scale in
its batch normalisation, and average pools that do not count their padding: ``aux_classifiers=False, norm_scale=False,
count_include_pad=False`` (23,817,352 parameters).

The auxiliary classifier needs a 17x17 map, from images of 299 pixels or more; smaller maps (where the references fail)
are surrounded by zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, avg_pool, global_avg_pool, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import (
    Branches,
    ClassifierHead,
    ConvChain,
    ConvLayer,
    Layer,
    Stage,
    check_images,
    sow_aux_logits,
)

Table = tuple[tuple[Layer, ...], ...]
Pool = Callable[[jax.Array], jax.Array]

# Table 1, up to the first module.
STEM = (ConvLayer(32, 3, strides=2, padding=0), ConvLayer(32, 3, padding=0), ConvLayer(64, 3))
STAGE1 = (ConvLayer(80), ConvLayer(192, 3, padding=0))

halve = partial(max_pool, window=3, strides=2)


def figure4(pool: Pool, pool_features: int) -> Table:
    """Return the branches of a 35x35 module."""
    return (
        (ConvLayer(64),),
        (ConvLayer(48), ConvLayer(64, 5)),
        (ConvLayer(64), ConvLayer(96, 3), ConvLayer(96, 3)),
        (pool, ConvLayer(pool_features)),
    )


def figure6(pool: Pool, features: int) -> Table:
    """Return the branches of a 17x17 module, with n = 7."""
    return (
        (ConvLayer(192),),
        (ConvLayer(features), ConvLayer(features, (1, 7)), ConvLayer(192, (7, 1))),
        (
            ConvLayer(features),
            ConvLayer(features, (7, 1)),
            ConvLayer(features, (1, 7)),
            ConvLayer(features, (7, 1)),
            ConvLayer(192, (1, 7)),
        ),
        (pool, ConvLayer(192)),
    )


def figure7(pool: Pool) -> Table:
    """Return the branches of an 8x8 module; two of them fork at their end."""
    fork = (ConvLayer(384, (1, 3)), ConvLayer(384, (3, 1)))
    return (
        (ConvLayer(320),),
        (ConvLayer(384), fork),
        (ConvLayer(448), ConvLayer(384, 3), fork),
        (pool, ConvLayer(192)),
    )


# Figure 10, from 35x35 to 17x17 and from 17x17 to 8x8.
REDUCTION1: Table = (
    (ConvLayer(384, 3, strides=2, padding=0),),
    (ConvLayer(64), ConvLayer(96, 3), ConvLayer(96, 3, strides=2, padding=0)),
    (halve,),
)
REDUCTION2: Table = (
    (ConvLayer(192), ConvLayer(320, 3, strides=2, padding=0)),
    (ConvLayer(192), ConvLayer(192, (1, 7)), ConvLayer(192, (7, 1)), ConvLayer(192, 3, strides=2, padding=0)),
    (halve,),
)


def table1(pool: Pool) -> tuple[tuple[Table, ...], ...]:
    """Return the modules of each stage; ``pool`` is the average pool inside them."""
    return (
        (figure4(pool, 32), figure4(pool, 64), figure4(pool, 64)),
        (REDUCTION1, *(figure6(pool, features) for features in (128, 160, 160, 192))),
        (REDUCTION2, figure7(pool), figure7(pool)),
    )


class AuxClassifier(nn.Module):
    """Classify from the 17x17 map: average to 5x5, 1x1 and 5x5 convolution, global average, dense layer.

    Source: Szegedy et al. 2015, arXiv:1512.00567, figure 8; differs: smaller maps are surrounded by zeros to 17x17.

    Args:
      x: float[batch, height, width, channels].
      train: True normalises with the batch's statistics.
    Returns:
      float32[batch, num_classes] logits, before softmax.
    """

    num_classes: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of ``x``."""
        missing = [max(0, 17 - size) for size in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))
        x = avg_pool(x, 5, 3)
        x = self.conv(128, (1, 1), padding=0, name="conv1")(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = self.conv(768, (5, 5), padding=0, kernel_init=nn.initializers.normal(0.01), name="conv2")(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm2")(x))
        x = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.001),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="classifier",
        )(global_avg_pool(x))
        return x.astype(jnp.float32)


class InceptionV3(nn.Module):
    """Inception v3: stem, stages of Inception modules, global average pooling, classifier.

    Source: Szegedy et al. 2015, arXiv:1512.00567, table 1; differs: see the head of this file.

    Attributes:
      aux_classifiers: have the auxiliary classifier ``aux1`` among the parameters. In training mode its logits are sown
        into the collection ``aux_logits``, if the caller makes it mutable. The usual weight of its loss is 0.4
        (torchvision) or 0.3 (the paper's predecessor).
      norm_scale: let batch normalisation have a trainable scale.
      count_include_pad: let the zeros around the map count in the modules' average pools.
      dropout_rate: before the classifier.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 75 pixels or more.
      train: apply dropout, normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 2048] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    num_classes: int = 1000
    aux_classifiers: bool = True
    norm_scale: bool = True
    count_include_pad: bool = True
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the last stage."""
        return 75

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kernel_init = nn.initializers.normal(0.1)
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=kernel_init, **types),
            "norm": partial(BatchNorm, epsilon=1e-3, use_scale=self.norm_scale, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        pool = partial(avg_pool, window=3, strides=1, padding=1, count_include_pad=self.count_include_pad)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
        stage2, stage3, stage4 = (
            stage_class(tuple(partial(Branches, branches, **layers) for branches in modules), name=f"stage{index}")
            for index, modules in enumerate(table1(pool), start=2)
        )

        x = ConvChain(STEM, **layers, name="stem")(images, train)
        x = ConvChain(STAGE1, **layers, name="stage1")(halve(x), train)
        x = stage2(halve(x), train)
        x = stage3(x, train)
        asked = self.is_initializing() or (train and self.is_mutable_collection("aux_logits"))
        if self.aux_classifiers and self.num_classes > 0 and asked:
            logits = AuxClassifier(self.num_classes, **layers, **types, name="aux1")(x, train)
            sow_aux_logits(self, "aux1", logits)
        x = stage4(x, train)
        head = ClassifierHead(self.num_classes, self.dropout_rate, kernel_init=kernel_init, **types, name="head")
        return head(x, train)


VARIANTS = {
    "inception_v3": Variant(
        InceptionV3,
        {},
        ModelInfo(
            family="inception_v3",
            paper="Szegedy et al. 2015, arXiv:1512.00567, table 1",
            num_params=27_161_264,
            gmacs=5.713,
            top1=77.294,
            weights="torchvision IMAGENET1K_V1",
            input_size=(299, 299),
            min_size=75,
            # Images as TensorFlow's authors trained these weights with.
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    ),
}
