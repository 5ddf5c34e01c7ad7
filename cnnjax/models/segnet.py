"""SegNet, whose decoder puts values back where the encoder's max pooling took them from.

Badrinarayanan, Kendall and Cipolla 2017, "SegNet: a deep convolutional encoder-decoder architecture for image
segmentation", arXiv:1511.00561v3, section 3 and figure 2.

The encoder is the 13 convolutions of VGG16 (configuration D of Simonyan and Zisserman 2015, arXiv:1409.1556), each with
batch normalisation. The decoder mirrors it; its last convolution gives the logits. As in the authors' network,
convolutions keep their biases, and pooling keeps a last row or column of odd maps. The paper leaves the epsilon of
batch normalisation open: 1e-5 here.
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
from cnnjax.nn import BatchNorm, Conv, max_pool_with_indices, max_unpool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import check_images

# Features of each convolution of each encoder stage, finest first: VGG16 (figure 2).
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

ModuleDef = Callable[..., Any]


class ConvStage(nn.Module):
    """3x3 convolutions, each with batch normalisation and a ReLU.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height, width, features[-1]].
    """

    features: tuple[int, ...]
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        for index, features in enumerate(self.features, start=1):
            x = self.conv(features, name=f"conv{index}")(x)
            x = self.activation(self.norm(use_running_average=not train, name=f"norm{index}")(x))
        return x


class Encoder(nn.Module):
    """Stages of convolutions, each followed by 2x2 max pooling that remembers where its maxima were.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      The coarsest map, and for each stage, finest first, the indices of its maxima and the size that was pooled.
    """

    features: tuple[tuple[int, ...], ...]
    make_stage: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, list[tuple[jax.Array, tuple[int, int]]]]:
        """Apply the encoder to ``x``."""
        pooled = []
        for index, features in enumerate(self.features, start=1):
            x = self.make_stage(features, name=f"stage{index}")(x, train)
            size = (x.shape[1], x.shape[2])
            x, indices = max_pool_with_indices(x, 2)
            pooled.append((indices, size))
        return x, pooled


class Decoder(nn.Module):
    """Unpooling, each followed by a stage of convolutions, from the coarsest to the finest level.

    Args:
      x: float[batch, height, width, in_features].
      pooled: what the encoder remembers of each of its stages, finest first.
    Returns:
      float[batch, image height, image width, features[-1][-1]].
    """

    features: tuple[tuple[int, ...], ...]
    make_stage: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, pooled: list[tuple[jax.Array, tuple[int, int]]], train: bool) -> jax.Array:
        """Apply the decoder to ``x``."""
        for index, (features, (indices, size)) in enumerate(zip(self.features, reversed(pooled), strict=True), start=1):
            x = self.make_stage(features, name=f"stage{index}")(max_unpool(x, indices, 2, size), train)
        return x


class Head(nn.Module):
    """The decoder's last 3x3 convolution, to classes.

    Args:
      x: float[batch, height, width, features].
    Returns:
      float32[batch, height, width, num_classes] logits; ``x`` in float32 when ``num_classes`` is 0.
    """

    num_classes: int
    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of each pixel."""
        if self.num_classes > 0:
            x = self.conv(self.num_classes, name="classifier")(x)
        return x.astype(jnp.float32)


class SegNet(nn.Module):
    """SegNet: VGG16's convolutions, and their mirror image with unpooling by the remembered places.

    Source: Badrinarayanan et al. 2017, arXiv:1511.00561, section 3; differs: see the head of this file.

    Attributes:
      features: width of each convolution of each encoder stage, finest first; the decoder mirrors them.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], 32 pixels or more.
      train: normalise with the batch's statistics and move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, height, width, num_classes] logits, before softmax; float32[batch, height, width, features] when
      ``num_classes`` is 0.
    Raises:
      ValueError: height or width under 32 pixels.
    """

    num_classes: int = 11
    features: tuple[tuple[int, ...], ...] = VGG16
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each pixel of ``images``."""
        check_images(images, min_size=2 ** len(self.features))
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_size=(3, 3), padding=1, kernel_init=nn.initializers.he_normal(), **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        stage_class = nn.remat(ConvStage, static_argnums=(2,)) if self.remat else ConvStage
        make_stage = partial(stage_class, conv=conv, norm=norm, activation=self.activation)

        # Each convolution of the decoder undoes one of the encoder: its output is as wide as that one's input. The
        # classifier stands for the one that would give the image.
        widths = [width for stage in self.features for width in stage]
        widths = widths[-2::-1]
        mirrored: list[tuple[int, ...]] = []
        for stage in reversed(self.features):
            mirrored.append(tuple(widths[: len(stage)]))
            widths = widths[len(stage) :]

        x, pooled = Encoder(self.features, make_stage, name="encoder")(images, train)
        x = Decoder(tuple(mirrored), make_stage, name="decoder")(x, pooled, train)
        return Head(self.num_classes, conv, name="head")(x)


VARIANTS = {
    # Section 4.1: CamVid, 11 classes, 360x480 pixels. Parameters: 29.45 million in table 6, the sum of the layers here.
    "segnet": Variant(
        SegNet,
        {},
        ModelInfo(
            family="segnet",
            paper="Badrinarayanan et al. 2017, arXiv:1511.00561, section 3 and figure 2",
            num_params=29_449_355,
            task="segmentation",
            num_classes=11,
            input_size=(360, 480),
        ),
    ),
}
