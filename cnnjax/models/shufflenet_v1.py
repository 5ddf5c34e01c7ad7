"""ShuffleNet with three groups.

Zhang, Zhou, Lin and Sun 2017, "ShuffleNet: an extremely efficient convolutional neural network for mobile devices",
arXiv:1707.01083v2, table 1.

Differs from the paper: nothing. Where it leaves a choice: widths of the stages are scaled and that of the stem is not;
the shortcut's average pooling counts the padding, as in the authors' later implementation; the classifier has a bias.
The paper's Stage2 to Stage4 are stage1 to stage3 here.
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
from cnnjax.nn import BatchNorm, Conv, avg_pool, channel_shuffle, he_fan_out, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ClassifierHead, ConvNorm, Stage, check_images
from cnnjax.nn.inverted_residual import ModuleDef

# Table 1: units a stage, and maps of each stage by the number of groups.
STAGE_SIZES = (4, 8, 4)
STAGE_FEATURES = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
STEM_FEATURES = 24

# Scale factor of the widths; parameters and multiply-adds (1e9), and top-1 (%) from tables 2 and 5, with 3 groups.
SCALES = {
    "shufflenet_v1_x1_0": (1.0, 1_865_728, 0.1375, 67.4),
    "shufflenet_v1_x1_5": (1.5, 3_442_168, 0.2924, 71.5),
    "shufflenet_v1_x2_0": (2.0, 5_448_208, 0.5076, 73.7),
}


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, 3x3 depthwise convolution, grouped 1x1 convolution (figure 2b and c).

    With stride 1 the input is added; with stride 2 its average pooled form is concatenated in front.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    strides: int
    groups: int
    first_groups: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the unit to ``x``."""
        width = self.features // 4
        branch_features = self.features if self.strides == 1 else self.features - x.shape[-1]
        y = self.conv(width, (1, 1), padding=0, feature_group_count=self.first_groups, name="conv1")(x)
        y = self.activation(self.norm(use_running_average=not train, name="norm1")(y))
        y = channel_shuffle(y, self.groups)
        y = self.conv(width, (3, 3), strides=self.strides, padding=1, feature_group_count=width, name="conv2")(y)
        y = self.norm(use_running_average=not train, name="norm2")(y)
        y = self.conv(branch_features, (1, 1), padding=0, feature_group_count=self.groups, name="conv3")(y)
        y = self.norm(use_running_average=not train, name="norm3")(y)
        if self.strides == 1:
            return self.activation(x + y)
        return self.activation(jnp.concatenate([avg_pool(x, 3, self.strides, padding=1), y], axis=-1))


class ShuffleNetV1(nn.Module):
    """ShuffleNet: a 3x3 convolution and a max pool, three stages of shuffle units, global average pooling, classifier.

    Source: Zhang et al. 2017, arXiv:1707.01083, table 1; differs: see the head of this file.

    Attributes:
      groups: groups of the 1x1 convolutions, one of 1, 2, 3, 4, 8; the very first one has none (section 3.3).
      scale: factor of the widths of the stages.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: a number of groups that table 1 has no widths for.
    """

    num_classes: int = 1000
    groups: int = 3
    scale: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        if self.groups not in STAGE_FEATURES:
            raise ValueError(f"groups must be one of {', '.join(map(str, STAGE_FEATURES))}, got {self.groups}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=he_fan_out, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvNorm(STEM_FEATURES, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        x = max_pool(x, 3, 2, padding=1)
        for index, (size, features) in enumerate(zip(STAGE_SIZES, STAGE_FEATURES[self.groups], strict=True), start=1):
            unit = partial(ShuffleUnit, round(features * self.scale), groups=self.groups, **layers)
            first = partial(unit, strides=2, first_groups=1 if index == 1 else self.groups)
            others = [partial(unit, strides=1, first_groups=self.groups)] * (size - 1)
            x = stage_class((first, *others), name=f"stage{index}")(x, train)
        return ClassifierHead(self.num_classes, **types, name="head")(x, train)


def _variant(scale: float, num_params: int, gmacs: float, top1: float) -> Variant:
    info = ModelInfo(
        family="shufflenet_v1",
        paper="Zhang et al. 2017, arXiv:1707.01083, table 1",
        num_params=num_params,
        min_size=1,
        gmacs=gmacs,
        top1=top1,
        weights="the paper's, tables 2 and 5",
    )
    return Variant(ShuffleNetV1, {"scale": scale}, info)


VARIANTS = {name: _variant(*row) for name, row in SCALES.items()}
