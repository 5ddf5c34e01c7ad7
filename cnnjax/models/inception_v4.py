"""Inception v4 and Inception-ResNet v2.

Szegedy, Ioffe, Vanhoucke and Alemi 2016, "Inception-v4, Inception-ResNet and the impact of residual connections on
learning", arXiv:1602.07261v2, figures 3 to 9 and 15 to 19 and table 1.

Both are as in the TensorFlow release, and so in timm. Inception-ResNet v2 differs there from the paper: its stem is
that of Inception v3 with one more module, not figure 3; it has 10, 20 and 10 residual modules, not 5, 10 and 5, with
residuals scaled by 0.17, 0.1 and 0.2; the last module's residual is not scaled and not rectified; a 1x1 convolution
follows it. Keras's Inception-ResNet v2 has no scale in its batch normalisation: ``norm_scale=False`` (55,813,192
parameters). The paper drops 20 % before the classifier, timm nothing, which is the default here.
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
from cnnjax.nn import BatchNorm, Conv, avg_pool, max_pool, torch_uniform
from cnnjax.nn.activation import relu
from cnnjax.nn.building import Branches, ClassifierHead, ConvChain, ConvLayer, Layer, Stage, check_images

Table = tuple[tuple[Layer, ...], ...]

halve = partial(max_pool, window=3, strides=2)
average = partial(avg_pool, window=3, strides=1, padding=1, count_include_pad=False)


def _half(features: int) -> ConvLayer:
    return ConvLayer(features, 3, strides=2, padding=0)


STEM = (_half(32), ConvLayer(32, 3, padding=0), ConvLayer(64, 3))

# Inception v4. Figure 3, the stem's three filter concatenations.
FIGURE3A: Table = ((halve,), (_half(96),))
FIGURE3B: Table = (
    (ConvLayer(64), ConvLayer(96, 3, padding=0)),
    (ConvLayer(64), ConvLayer(64, (1, 7)), ConvLayer(64, (7, 1)), ConvLayer(96, 3, padding=0)),
)
FIGURE3C: Table = ((_half(192),), (halve,))
# Inception-A, B and C.
FIGURE4: Table = (
    (ConvLayer(96),),
    (ConvLayer(64), ConvLayer(96, 3)),
    (ConvLayer(64), ConvLayer(96, 3), ConvLayer(96, 3)),
    (average, ConvLayer(96)),
)
FIGURE5: Table = (
    (ConvLayer(384),),
    (ConvLayer(192), ConvLayer(224, (1, 7)), ConvLayer(256, (7, 1))),
    (
        ConvLayer(192),
        ConvLayer(192, (7, 1)),
        ConvLayer(224, (1, 7)),
        ConvLayer(224, (7, 1)),
        ConvLayer(256, (1, 7)),
    ),
    (average, ConvLayer(128)),
)
FIGURE6: Table = (
    (ConvLayer(256),),
    (ConvLayer(384), (ConvLayer(256, (1, 3)), ConvLayer(256, (3, 1)))),
    (
        ConvLayer(384),
        ConvLayer(448, (3, 1)),
        ConvLayer(512, (1, 3)),
        (ConvLayer(256, (1, 3)), ConvLayer(256, (3, 1))),
    ),
    (average, ConvLayer(256)),
)


def figure7(k: int, el: int, m: int, n: int) -> Table:
    """Return the branches of Reduction-A, from 35x35 to 17x17; the paper's k, l, m and n are in table 1."""
    return ((_half(n),), (ConvLayer(k), ConvLayer(el, 3), _half(m)), (halve,))


# Reduction-B of Inception v4, from 17x17 to 8x8.
FIGURE8: Table = (
    (ConvLayer(192), _half(192)),
    (ConvLayer(256), ConvLayer(256, (1, 7)), ConvLayer(320, (7, 1)), _half(320)),
    (halve,),
)

# Inception-ResNet v2. The rest of the stem and the module after it (in the release only), then Inception-ResNet-A, B,
# Reduction-B and Inception-ResNet-C.
STAGE1 = (ConvLayer(80), ConvLayer(192, 3, padding=0))
MIXED_5B: Table = (
    (ConvLayer(96),),
    (ConvLayer(48), ConvLayer(64, 5)),
    (ConvLayer(64), ConvLayer(96, 3), ConvLayer(96, 3)),
    (average, ConvLayer(64)),
)
FIGURE16: Table = (
    (ConvLayer(32),),
    (ConvLayer(32), ConvLayer(32, 3)),
    (ConvLayer(32), ConvLayer(48, 3), ConvLayer(64, 3)),
)
FIGURE17: Table = ((ConvLayer(192),), (ConvLayer(128), ConvLayer(160, (1, 7)), ConvLayer(192, (7, 1))))
FIGURE18: Table = (
    (ConvLayer(256), _half(384)),
    (ConvLayer(256), _half(288)),
    (ConvLayer(256), ConvLayer(288, 3), _half(320)),
    (halve,),
)
FIGURE19: Table = ((ConvLayer(192),), (ConvLayer(192), ConvLayer(224, (1, 3)), ConvLayer(256, (3, 1))))
# A stage's first module, the module that follows, and how often; stages 2 to 4.
INCEPTION_V4 = (
    (FIGURE3C, FIGURE4, 4),
    (figure7(192, 224, 256, 384), FIGURE5, 7),
    (FIGURE8, FIGURE6, 3),
)
# The same, and what the residuals are scaled by.
INCEPTION_RESNET_V2 = (
    (MIXED_5B, FIGURE16, 10, 0.17),
    (figure7(256, 256, 384, 384), FIGURE17, 20, 0.1),
    (FIGURE18, FIGURE19, 10, 0.2),
)


class ResidualBranches(nn.Module):
    """Add to the input what the branches make of it: y = activation(x + scale * conv(branches(x))).

    Source: Szegedy et al. 2016, arXiv:1602.07261, figures 16, 17, 19 and 20; differs: nothing.

    Args:
      x: float[batch, height, width, channels].
      train: True normalises with the batch's statistics.
    Returns:
      An array like ``x``.
    """

    branches: Table
    scale: float
    rectify: bool
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the module to ``x``."""
        outputs = [
            ConvChain(layers, self.conv, self.norm, self.activation, name=f"branch{number}")(x, train)
            for number, layers in enumerate(self.branches, start=1)
        ]
        y = self.conv(x.shape[-1], (1, 1), padding=0, use_bias=True, name="expand_conv")(jnp.concatenate(outputs, -1))
        y = x + self.scale * y
        return self.activation(y) if self.rectify else y


class InceptionV4(nn.Module):
    """Inception v4: stem, stages of Inception modules, global average pooling, classifier.

    Source: Szegedy et al. 2016, arXiv:1602.07261, figure 9; differs: nothing.

    Attributes:
      norm_scale: let batch normalisation have a trainable scale.
      dropout_rate: before the classifier; 0.2 in the paper.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 75 pixels or more.
      train: apply dropout, normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, 1536] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small.
    """

    num_classes: int = 1000
    norm_scale: bool = True
    dropout_rate: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels: one pixel is left after the last stage."""
        return 75

    def modules(
        self, images: jax.Array, train: bool, layers: dict[str, Any], make_stage: Callable[..., Any]
    ) -> jax.Array:
        """Return the last stage's output; ``layers`` holds the fields that all modules share."""
        block = partial(Branches, **layers)
        x = ConvChain(STEM, **layers, name="stem")(images, train)
        x = make_stage((partial(block, FIGURE3A), partial(block, FIGURE3B)), name="stage1")(x, train)
        for index, (first, module, count) in enumerate(INCEPTION_V4, start=2):
            blocks = (partial(block, first), *(partial(block, module),) * count)
            x = make_stage(blocks, name=f"stage{index}")(x, train)
        return x

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=self.min_size)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers = {
            "conv": partial(Conv, use_bias=False, kernel_init=torch_uniform, **types),
            "norm": partial(BatchNorm, epsilon=1e-3, use_scale=self.norm_scale, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        make_stage = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
        x = self.modules(images, train, layers, make_stage)
        return ClassifierHead(self.num_classes, self.dropout_rate, **types, name="head")(x, train)


class InceptionResNetV2(InceptionV4):
    """Inception-ResNet v2: stem, stages of residual Inception modules, global average pooling, classifier.

    Source: Szegedy et al. 2016, arXiv:1602.07261, figure 15; differs: see the head of this file.

    Fields, arguments, result and errors are those of `InceptionV4`.
    """

    def modules(
        self, images: jax.Array, train: bool, layers: dict[str, Any], make_stage: Callable[..., Any]
    ) -> jax.Array:
        """Return the last stage's output; ``layers`` holds the fields that all modules share."""
        x = ConvChain(STEM, **layers, name="stem")(images, train)
        x = halve(ConvChain(STAGE1, **layers, name="stage1")(halve(x), train))
        for index, (first, module, count, scale) in enumerate(INCEPTION_RESNET_V2, start=2):
            blocks: list[Callable[..., nn.Module]] = [partial(Branches, first, **layers)]
            blocks += [partial(ResidualBranches, module, scale, True, **layers)] * count
            if index == 4:
                blocks[-1] = partial(ResidualBranches, module, 1.0, False, **layers)
                blocks.append(partial(ConvChain, (ConvLayer(1536),), **layers))
            x = make_stage(tuple(blocks), name=f"stage{index}")(x, train)
        return x


PAPER = "Szegedy et al. 2016, arXiv:1602.07261"
TENSORFLOW: dict[str, Any] = {
    "family": "inception_v4",
    "input_size": (299, 299),
    "min_size": 75,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
VARIANTS = {
    "inception_v4": Variant(
        InceptionV4, {}, ModelInfo(paper=f"{PAPER}, figure 9", num_params=42_679_816, **TENSORFLOW)
    ),
    "inception_resnet_v2": Variant(
        InceptionResNetV2, {}, ModelInfo(paper=f"{PAPER}, figure 15", num_params=55_843_464, **TENSORFLOW)
    ),
}
