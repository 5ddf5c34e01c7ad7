"""Inception v1 (GoogLeNet), its naive form, and torchvision's version of it.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich 2014, "Going deeper with convolutions",
arXiv:1409.4842v1, table 1 and figures 2 and 3.

``inception_v1`` is the paper's network. What the paper leaves open is as in the widespread Caffe reproduction: the
constants of local response normalisation (size 5, alpha 1e-4 / 5, beta 0.75, k 1), initial values, symmetric padding of
convolutions, and pools that round up. Its auxiliary classifiers average maps of another size than the published 14x14
over bins, so that images of any legal size can train them.

``inception_v1_naive`` has the modules of figure 2a: no 1x1 reductions, and the pool's output is handed on whole, so
that each module adds its input's channels to its output.

``googlenet`` is torchvision's: batch normalisation in place of biases and of local response normalisation, 3x3 where
the paper says 5x5, a 2x2 window in the last pool but one, and averages over bins before the auxiliary classifiers.

The counts are without the auxiliary classifiers, which serve training only: ``aux_classifiers=True`` adds them
(13,378,280 parameters for ``inception_v1``, 13,004,888 for ``googlenet``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant, named_rows
from cnnjax.nn import BatchNorm, Conv, adaptive_avg_pool, avg_pool, local_response_norm, max_pool
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


class Module(NamedTuple):
    """A row of table 1: features of the module's convolutions, named by kernel; ``reduce`` are the 1x1 before."""

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool_proj: int


# Table 1, the modules by stage: (3a, 3b), (4a to 4e), (5a, 5b).
TABLE1 = (
    (Module(64, 96, 128, 16, 32, 32), Module(128, 128, 192, 32, 96, 64)),
    (
        Module(192, 96, 208, 16, 48, 64),
        Module(160, 112, 224, 24, 64, 64),
        Module(128, 128, 256, 24, 64, 64),
        Module(112, 144, 288, 32, 64, 64),
        Module(256, 160, 320, 32, 128, 128),
    ),
    (Module(256, 160, 320, 32, 128, 128), Module(384, 192, 384, 48, 128, 128)),
)
# The modules whose outputs the auxiliary classifiers see, 4a and 4d, as positions in their stage; in a shorter stage
# the last module stands for one that is missing.
AUX_AFTER = (0, 3)

same_max_pool = partial(max_pool, window=3, strides=1, padding=1)
caffe_lrn = partial(local_response_norm, size=5, alpha=1e-4 / 5, beta=0.75, k=1.0)


def figure2a(row: Module, wide_kernel: int) -> tuple[tuple[Layer, ...], ...]:
    """Return the branches of the naive module."""
    return (
        (ConvLayer(row.conv1),),
        (ConvLayer(row.conv3, 3),),
        (ConvLayer(row.conv5, wide_kernel),),
        (same_max_pool,),
    )


def figure2b(row: Module, wide_kernel: int) -> tuple[tuple[Layer, ...], ...]:
    """Return the branches of the module with dimension reductions."""
    return (
        (ConvLayer(row.conv1),),
        (ConvLayer(row.reduce3), ConvLayer(row.conv3, 3)),
        (ConvLayer(row.reduce5), ConvLayer(row.conv5, wide_kernel)),
        (same_max_pool, ConvLayer(row.pool_proj)),
    )


class AuxClassifier(nn.Module):
    """Classify from the middle of the network: average to 4x4, 1x1 convolution, two dense layers.

    Source: arXiv:1409.4842, section 5; differs: maps of another size than 14x14 are averaged over bins.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits, before softmax.
    """

    num_classes: int
    overlapping_pool: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any] | None
    dense: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of ``x``."""
        as_published = self.overlapping_pool and x.shape[1:3] == (14, 14)
        x = avg_pool(x, 5, 3) if as_published else adaptive_avg_pool(x, 4)
        x = self.conv(128, (1, 1), padding=0, name="conv1")(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, name="norm1")(x)
        x = self.activation(x)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        x = self.activation(self.dense(1024, name="dense1")(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return self.dense(self.num_classes, name="classifier")(x).astype(jnp.float32)


class GoogLeNet(nn.Module):
    """Inception v1: stem, stages of Inception modules, global average pooling, classifier.

    Source: Szegedy et al. 2014, arXiv:1409.4842, table 1; differs: see the head of this file.

    Attributes:
      rows: the modules of stages 2 to 4, as in table 1.
      naive: modules of figure 2a instead of 2b.
      batch_norm: normalise each convolution, with neither biases nor local response normalisation.
      wide_kernel: kernel of the modules' widest convolution.
      last_pool_window: window of the pool before the last stage.
      aux_classifiers: have the two auxiliary classifiers ``aux1`` and ``aux2`` among the parameters. In training mode
        their logits are sown into the collection ``aux_logits``, if the caller makes it mutable. The paper adds
        0.3 times their losses.
      dropout_rate, aux_dropout_rate: dropout before the classifier and inside the auxiliary ones.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 31 pixels or more (15 for
        ``googlenet``).
      train: apply dropout, normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    rows: tuple[tuple[Module, ...], ...] = TABLE1
    naive: bool = False
    batch_norm: bool = False
    wide_kernel: int = 5
    last_pool_window: int = 3
    aux_classifiers: bool = False
    num_classes: int = 1000
    dropout_rate: float = 0.4
    aux_dropout_rate: float = 0.7
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        """Name the columns of the rows."""
        self.rows = tuple(named_rows(Module, stage) for stage in self.rows)
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: each pool's window keeps two pixels (one, if it is 2x2)."""
        return 31 if self.last_pool_window == 3 else 15

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.batch_norm:
            kernel_init = nn.initializers.normal(0.01)
            conv = partial(Conv, use_bias=False, kernel_init=kernel_init, **types)
            norm = partial(BatchNorm, epsilon=1e-3, axis_name=self.axis_name, **types)
        else:
            kernel_init = nn.initializers.lecun_uniform()
            conv = partial(Conv, kernel_init=kernel_init, bias_init=nn.initializers.constant(0.2), **types)
            norm = None
        lrn = () if self.batch_norm else (caffe_lrn,)
        chain = partial(ConvChain, conv=conv, norm=norm, activation=self.activation)
        aux = partial(
            AuxClassifier,
            self.num_classes,
            overlapping_pool=not self.batch_norm,
            conv=conv,
            norm=norm,
            dense=partial(nn.Dense, kernel_init=kernel_init, **types),
            activation=self.activation,
            dropout_rate=self.aux_dropout_rate,
        )
        make_stage = nn.remat(Stage, static_argnums=(2, 3)) if self.remat else Stage
        branches = figure2a if self.naive else figure2b
        stages = [
            make_stage(
                tuple(partial(Branches, branches(row, self.wide_kernel), conv, norm, self.activation) for row in rows),
                name=f"stage{index}",
            )
            for index, rows in enumerate(self.rows, start=2)
        ]

        x = chain((ConvLayer(64, 7, strides=2),), name="stem")(images, train)
        x = max_pool(x, 3, 2, ceil_mode=True)
        x = chain((*lrn, ConvLayer(64), ConvLayer(192, 3), *lrn), name="stage1")(x, train)
        x = max_pool(x, 3, 2, ceil_mode=True)
        x = stages[0](x, train, False)
        x = max_pool(x, 3, 2, ceil_mode=True)
        if self._wants_aux_logits(train):
            outputs = stages[1](x, train, True)
            for number, index in enumerate(AUX_AFTER, start=1):
                logits = aux(name=f"aux{number}")(outputs[min(index, len(outputs) - 1)], train)
                sow_aux_logits(self, f"aux{number}", logits)
            x = outputs[-1]
        else:
            x = stages[1](x, train, False)
        x = max_pool(x, self.last_pool_window, 2, ceil_mode=True)
        x = stages[2](x, train, False)
        return ClassifierHead(self.num_classes, self.dropout_rate, kernel_init=kernel_init, **types, name="head")(
            x, train
        )

    def _wants_aux_logits(self, train: bool) -> bool:
        """Say whether the auxiliary classifiers run; their parameters are made whoever asks for their logits."""
        asked = train and self.is_mutable_collection("aux_logits")
        return self.aux_classifiers and self.num_classes > 0 and (self.is_initializing() or asked)


PAPER = "Szegedy et al. 2014, arXiv:1409.4842, table 1"
# fmt: off
VARIANTS = {
    "inception_v1": Variant(
        GoogLeNet, {}, ModelInfo(family="inception_v1", paper=PAPER, num_params=6_998_552, min_size=31)
    ),
    "inception_v1_naive": Variant(
        GoogLeNet,
        {"naive": True},
        # Not published: the sum of the table's rows.
        ModelInfo(family="inception_v1", paper=f"{PAPER}, figure 2a", num_params=97_526_008, min_size=31),
    ),
    "googlenet": Variant(
        GoogLeNet,
        {"batch_norm": True, "wide_kernel": 3, "last_pool_window": 2, "dropout_rate": 0.2},
        ModelInfo(
            family="inception_v1",
            paper=PAPER,
            num_params=6_624_904,
            gmacs=1.498,
            top1=69.778,
            weights="torchvision IMAGENET1K_V1",
            min_size=15,
            # Images as TensorFlow's authors trained these weights with.
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    ),
}
# fmt: on
