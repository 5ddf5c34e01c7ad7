"""ShuffleNetV2.

Ma, Zhang, Zheng and Sun 2018, "ShuffleNet V2: practical guidelines for efficient CNN architecture design",
arXiv:1807.11164v1, table 5.

Differs from the paper: nothing. The paper's Stage2 to Stage4 are stage1 to stage3 here, and its Conv5 is the last
block of stage3.
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
from cnnjax.nn import BatchNorm, Conv, channel_shuffle, max_pool, torch_uniform
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ClassifierHead, ConvNorm, Stage, check_images
from cnnjax.nn.inverted_residual import ModuleDef

# Table 5: units a stage; maps of Stage2, Stage3, Stage4 and Conv5; parameters, multiply-adds (1e9) and top-1 (%) are
# torchvision's, V1 weights, and so is the size (pixels) to which it resizes images for that.
STEM_FEATURES = 24
STAGE_SIZES = (4, 8, 4)
# fmt: off
TABLE_5 = {
    "shufflenet_v2_x0_5": ((48, 96, 192, 1024),  1_366_792, 0.040, 60.552, 256),
    "shufflenet_v2_x1_0": ((116, 232, 464, 1024), 2_278_604, 0.145, 69.362, 256),
    "shufflenet_v2_x1_5": ((176, 352, 704, 1024), 3_503_624, 0.296, 72.996, 232),
    "shufflenet_v2_x2_0": ((244, 488, 976, 2048), 7_393_996, 0.583, 76.230, 232),
}
# fmt: on


class PoolingBranch(nn.Module):
    """The left branch of figure 3d: a 3x3 depthwise convolution of stride 2, then a 1x1 convolution.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / 2), ceil(width / 2), features].
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the branch to ``x``."""
        x = self.conv(x.shape[-1], (3, 3), strides=2, padding=1, feature_group_count=x.shape[-1], name="conv1")(x)
        x = self.norm(use_running_average=not train, name="norm1")(x)
        x = self.conv(self.features, (1, 1), padding=0, name="conv2")(x)
        return self.activation(self.norm(use_running_average=not train, name="norm2")(x))


class MainBranch(nn.Module):
    """The right branch of figures 3c and d: 1x1, 3x3 depthwise and 1x1 convolutions.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the branch to ``x``."""
        width = self.features
        x = self.conv(width, (1, 1), padding=0, name="conv1")(x)
        x = self.activation(self.norm(use_running_average=not train, name="norm1")(x))
        x = self.conv(width, (3, 3), strides=self.strides, padding=1, feature_group_count=width, name="conv2")(x)
        x = self.norm(use_running_average=not train, name="norm2")(x)
        x = self.conv(width, (1, 1), padding=0, name="conv3")(x)
        return self.activation(self.norm(use_running_average=not train, name="norm3")(x))


class ShuffleUnit(nn.Module):
    """Two branches side by side, then a channel shuffle (figure 3c and d).

    With stride 1 the first half of the channels passes as it is and the second half goes through the branch; with
    stride 2 both branches see all channels.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    """

    features: int
    strides: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the unit to ``x``."""
        half = self.features // 2
        layers = (self.conv, self.norm, self.activation)
        if self.strides == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left, right = PoolingBranch(half, *layers, name="branch1")(x, train), x
        right = MainBranch(half, self.strides, *layers, name="branch2")(right, train)
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2: 3x3 convolution and max pool, three stages of units, 1x1 convolution, average pool, classifier.

    Source: Ma et al. 2018, arXiv:1807.11164, table 5; differs: nothing.

    Attributes:
      stage_features: maps of the stages and of the last convolution.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    """

    stage_features: tuple[int, int, int, int]
    num_classes: int = 1000
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, Any] = {
            "conv": partial(Conv, use_bias=False, kernel_init=torch_uniform, **types),
            "norm": partial(BatchNorm, axis_name=self.axis_name, **types),
            "activation": self.activation,
        }
        *stage_features, last_features = self.stage_features
        stages: list[list[Callable[..., nn.Module]]] = [
            [partial(ShuffleUnit, features, strides=2 if index == 0 else 1, **layers) for index in range(size)]
            for size, features in zip(STAGE_SIZES, stage_features, strict=True)
        ]
        stages[-1].append(partial(ConvNorm, last_features, **layers))
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvNorm(STEM_FEATURES, kernel_size=3, strides=2, **layers, name="stem")(images, train)
        x = max_pool(x, 3, 2, padding=1)
        for index, blocks in enumerate(stages, start=1):
            x = stage_class(tuple(blocks), name=f"stage{index}")(x, train)
        return ClassifierHead(self.num_classes, **types, name="head")(x, train)


def _variant(stage_features: tuple[int, ...], num_params: int, gmacs: float, top1: float, resize_size: int) -> Variant:
    info = ModelInfo(
        family="shufflenet_v2",
        paper="Ma et al. 2018, arXiv:1807.11164, table 5",
        num_params=num_params,
        min_size=1,
        gmacs=gmacs,
        top1=top1,
        weights="torchvision IMAGENET1K_V1",
        resize_size=resize_size,
    )
    return Variant(ShuffleNetV2, {"stage_features": stage_features}, info)


VARIANTS = {name: _variant(*row) for name, row in TABLE_5.items()}
