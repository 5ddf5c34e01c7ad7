"""ConvNeXt: a ResNet brought, step by step, to the shape of a vision transformer without attention.

Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022, "A ConvNet for the 2020s", arXiv:2201.03545v2, figure 4 (blocks),
section 2 (stem, stages, downsampling) and section 3 (variants).

Differs from the paper: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, Dense, LayerNorm, StochasticDepth, global_avg_pool
from cnnjax.nn.activation import gelu
from cnnjax.nn.building import StageGeometry, check_images, dilate_stages, stochastic_depth_rates


class Row(NamedTuple):
    """A row of section 3, with the stochastic depth of the training recipe (tables 5 and 6 of the appendix)."""

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    stochastic_depth_rate: float
    num_params: int
    gmacs: float | None = None
    top1: float | None = None
    weights: str | None = None
    resize_size: int | None = None


LIU2022 = "Liu et al. 2022, arXiv:2201.03545"
V1 = "torchvision IMAGENET1K_V1"
# fmt: off
# arXiv:2201.03545, section 3; parameters of the last row are those of Keras, multiply-adds of table 1
TABLE = {
    "convnext_tiny":   Row((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 28_589_128, 4.456, 82.520, V1, 236),
    "convnext_small":  Row((3, 3, 27, 3), (96, 192, 384, 768), 0.4, 50_223_688, 8.684, 83.616, V1, 230),
    "convnext_base":   Row((3, 3, 27, 3), (128, 256, 512, 1024), 0.5, 88_591_464, 15.355, 84.062, V1, 232),
    "convnext_large":  Row((3, 3, 27, 3), (192, 384, 768, 1536), 0.5, 197_767_336, 34.361, 84.414, V1, 232),
    "convnext_xlarge": Row((3, 3, 27, 3), (256, 512, 1024, 2048), 0.2, 350_196_968, 60.9),
}
# fmt: on


ModuleDef = Callable[..., Any]


class Block(nn.Module):
    """x + drop(scale * W2 gelu(W1 norm(depthwise(x)))): a 7x7 depthwise convolution and an inverted bottleneck.

    Args:
      x: float[batch, height, width, features].
      train: True may drop the branch.
    Returns:
      An array like ``x``.
    """

    dilation: int
    layer_scale: float
    stochastic_depth_rate: float
    conv: ModuleDef
    norm: ModuleDef
    dense: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        features = x.shape[-1]
        y = self.conv(
            features,
            (7, 7),
            padding=3 * self.dilation,
            kernel_dilation=self.dilation,
            feature_group_count=features,
            name="conv1",
        )(x)
        y = self.norm(name="norm1")(y)
        y = self.activation(self.dense(4 * features, name="dense1")(y))
        y = self.dense(features, name="dense2")(y)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (features,), self.param_dtype)
        y = y * scale.astype(y.dtype)[None, None, None]
        return x + StochasticDepth(self.stochastic_depth_rate)(y, train)


class Stem(nn.Module):
    """Cut the image into patches of 4x4 pixels and embed each.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float[batch, height // 4, width // 4, features].
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Embed the patches of ``x``."""
        x = self.conv(self.features, (4, 4), strides=4, padding="VALID", name="conv1")(x)
        return self.norm(name="norm1")(x)


class Stage(nn.Module):
    """Blocks of equal width, behind a normalised 2x2 convolution that changes resolution and width (but for stage 1).

    Args:
      x: float[batch, height, width, in_features].
      train: True may drop blocks.
    Returns:
      float[batch, height // strides, width // strides, features].
    """

    make_block: Callable[..., Block]
    features: int
    geometry: StageGeometry
    stochastic_depth_rates: tuple[float, ...]
    conv: ModuleDef
    norm: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        strides, first_dilation, dilation = self.geometry
        if x.shape[-1] != self.features:
            x = self.norm(name="norm1")(x)
            # Without its stride the convolution reads beyond the last row and column, and must not lose them.
            beyond = (0, 0) if strides > 1 else (0, first_dilation)
            x = self.conv(
                self.features,
                (2, 2),
                strides=strides,
                padding=(beyond, beyond),
                kernel_dilation=first_dilation,
                name="conv1",
            )(x)
        for index, rate in enumerate(self.stochastic_depth_rates, start=1):
            x = self.make_block(dilation=dilation, stochastic_depth_rate=rate, name=f"block{index}")(x, train)
        return x


class Head(nn.Module):
    """Average over space, normalise, classify.

    Args:
      x: float[batch, height, width, features].
      train: True applies dropout.
    Returns:
      float32[batch, num_classes] logits; float32[batch, features] normalised features when ``num_classes`` is 0.
    """

    num_classes: int
    dropout_rate: float
    norm: ModuleDef
    dense: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of ``x``."""
        x = self.norm(name="norm1")(global_avg_pool(x))
        if self.num_classes > 0:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = self.dense(self.num_classes, name="classifier")(x)
        return x.astype(jnp.float32)


class ConvNeXt(nn.Module):
    """ConvNeXt: patches, stages of blocks with layer normalisation, global average pooling, classifier.

    Source: Liu et al. 2022, arXiv:2201.03545, section 3; differs: nothing.

    Attributes:
      stage_sizes: blocks a stage.
      features: width of each stage.
      layer_scale: start of the factor on each channel of each block's branch.
      stochastic_depth_rate: probability to drop the last block, rising linearly from 0 at the first.
      output_stride: 8, 16 or 32 pixels of the image for each of the last feature map; below 32 the last stages trade
        their stride for dilation.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more. Rows and
        columns beyond a multiple of 4 are not seen.
      train: drop blocks; needs the random stream ``dropout`` unless the rates are 0.
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small, or an ``output_stride`` that no stage ends at.
    """

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    num_classes: int = 1000
    layer_scale: float = 1e-6
    stochastic_depth_rate: float = 0.0
    dropout_rate: float = 0.0
    output_stride: int = 32
    activation: Callable[[jax.Array], jax.Array] = gelu
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        strides = (1,) + (2,) * (len(self.stage_sizes) - 1)
        # One pixel is left after the last stage.
        check_images(images, min_size=4 * 2 ** (len(strides) - 1))
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # PyTorch's truncation, at 100 standard deviations, cuts nothing off.
        kernel_init = nn.initializers.normal(0.02)
        conv = partial(Conv, kernel_init=kernel_init, **types)
        dense = partial(Dense, kernel_init=kernel_init, **types)
        norm = partial(LayerNorm, epsilon=1e-6, **types)
        block = partial(
            Block,
            layer_scale=self.layer_scale,
            conv=conv,
            norm=norm,
            dense=dense,
            activation=self.activation,
            param_dtype=self.param_dtype,
        )
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = Stem(self.features[0], conv, norm, name="stem")(images)
        geometries = dilate_stages(strides, self.output_stride, stem_stride=4)
        rates = stochastic_depth_rates(self.stochastic_depth_rate, self.stage_sizes)
        for index, (features, geometry, stage_rates) in enumerate(zip(self.features, geometries, rates, strict=True)):
            stage = stage_class(block, features, geometry, stage_rates, conv, norm, name=f"stage{index + 1}")
            x = stage(x, train)
        return Head(self.num_classes, self.dropout_rate, norm, dense, name="head")(x, train)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="convnext",
        paper=f"{LIU2022}, section 3",
        num_params=row.num_params,
        gmacs=row.gmacs,
        top1=row.top1,
        weights=row.weights,
        resize_size=row.resize_size,
    )
    return Variant(
        ConvNeXt, {field: getattr(row, field) for field in ("stage_sizes", "features", "stochastic_depth_rate")}, info
    )


VARIANTS = {name: _variant(row) for name, row in TABLE.items()}
