"""U-Net, which labels each pixel from a contracting and an expansive path.

Ronneberger, Fischer and Brox 2015, "U-Net: convolutional networks for biomedical image segmentation",
arXiv:1505.04597v1, figure 1 and section 2.

``unet`` convolves without padding, so a 572-pixel image gives labels for its inner 388 pixels. ``unet_same`` pads the
3x3 convolutions by one pixel, so that labels cover the image; otherwise it is the same network. The paper puts dropout
"at the end of the contracting path" without a rate: here, as in the authors' released network, half of the values after
each of the last two stages of that path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, ConvTranspose, max_pool
from cnnjax.nn.activation import relu
from cnnjax.nn.building import check_images

# Feature channels of each level, finest first (figure 1).
FEATURES = (64, 128, 256, 512, 1024)

# Section 3: normal with variance 2 / N, where N inputs reach each output; one of the four taps of a transposed 2x2
# convolution of stride 2 does.
he_normal = nn.initializers.he_normal()
he_transposed = nn.initializers.variance_scaling(8.0, "fan_in", "normal", in_axis=-1, out_axis=-2)

ModuleDef = Callable[..., Any]


class DownStage(nn.Module):
    """Two 3x3 convolutions, each followed by a ReLU, and dropout.

    Args:
      x: float[batch, height, width, in_features].
      train: True applies dropout.
    Returns:
      float[batch, height - 4, width - 4, features]; the height and width of ``x`` where the convolutions pad.
    """

    features: int
    conv: ModuleDef
    activation: Callable[[jax.Array], jax.Array]
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the stage to ``x``."""
        x = self.activation(self.conv(self.features, name="conv1")(x))
        x = self.activation(self.conv(self.features, name="conv2")(x))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)


class UpStage(nn.Module):
    """Double the resolution, append the cropped map of the contracting path, and convolve twice.

    Args:
      x: float[batch, height, width, in_features].
      skip: float[batch, 2 * height or more, 2 * width or more, features], from the contracting path.
    Returns:
      float[batch, 2 * height - 4, 2 * width - 4, features]; twice the size of ``x`` where the convolutions pad.
    """

    features: int
    conv: ModuleDef
    up_conv: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        """Apply the stage to ``x``."""
        x = self.up_conv(self.features, name="up_conv")(x)
        height, width = x.shape[1:3]
        top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
        x = jnp.concatenate([skip[:, top : top + height, left : left + width], x], axis=-1)
        x = self.activation(self.conv(self.features, name="conv1")(x))
        return self.activation(self.conv(self.features, name="conv2")(x))


class Encoder(nn.Module):
    """The contracting path: a stage a level, 2x2 max pooling between them.

    Args:
      x: float[batch, height, width, channels].
      train: True applies dropout in the last two stages.
    Returns:
      The output of each stage, finest first.
    """

    make_stages: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Return the feature maps of all levels."""
        maps: list[jax.Array] = []
        for index, make_stage in enumerate(self.make_stages, start=1):
            maps.append(make_stage(name=f"stage{index}")(max_pool(maps[-1], 2) if maps else x, train))
        return maps


class Decoder(nn.Module):
    """The expansive path: from the coarsest map to the resolution of the finest.

    Args:
      maps: the output of each stage of the contracting path, finest first.
    Returns:
      float[batch, height, width, features] at the resolution of the finest map.
    """

    make_stages: tuple[Callable[..., nn.Module], ...]

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        """Return the finest feature map of the expansive path."""
        *skips, x = maps
        for index, (make_stage, skip) in enumerate(zip(self.make_stages, reversed(skips), strict=True), start=1):
            x = make_stage(name=f"stage{index}")(x, skip)
        return x


class Head(nn.Module):
    """The 1x1 convolution that maps features to classes.

    Args:
      x: float[batch, height, width, features].
    Returns:
      float32[batch, height, width, num_classes] logits; ``x`` in float32 when ``num_classes`` is 0.
    """

    num_classes: int
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of each pixel."""
        if self.num_classes > 0:
            x = Conv(
                self.num_classes,
                (1, 1),
                kernel_init=he_normal,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="classifier",
            )(x)
        return x.astype(jnp.float32)


class UNet(nn.Module):
    """U-Net: a contracting path, an expansive path that sees each level of the first, a 1x1 convolution.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, figure 1; differs: see the head of this file.

    Attributes:
      features: channels of each level, finest first; each level halves the resolution.
      padding: "VALID" (the paper's) or "SAME", which keeps height and width.
      dropout_rate: probability to drop a value after each of the last two stages of the contracting path.
      remat: recompute the inside of each stage in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels]. Legal heights and widths are 188, 204, 220, ..., 572, ... pixels
        without padding, and multiples of 16 with it.
      train: True applies dropout.
    Returns:
      float32[batch, out_height, out_width, num_classes] logits, before softmax; out_height is height - 184 without
      padding (the inner part of the image), height with it. float32[batch, out_height, out_width, features] when
      ``num_classes`` is 0.
    Raises:
      ValueError: height or width between two legal sizes or too small; an unknown padding.
    """

    num_classes: int = 2
    features: tuple[int, ...] = FEATURES
    padding: Literal["VALID", "SAME"] = "VALID"
    dropout_rate: float = 0.5
    activation: Callable[[jax.Array], jax.Array] = relu
    remat: bool = False
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @property
    def size_step(self) -> int:
        """Difference between two legal heights or widths, pixels: all max pooling together."""
        return 2 ** (len(self.features) - 1)

    @property
    def min_size(self) -> int:
        """Smallest legal height and width, pixels."""
        if self.padding == "SAME":
            return self.size_step
        # A stage takes 4 pixels. The coarsest output of c pixels came from step * (c + 8) - 4 pixels of the image, and
        # leaves step * (c - 4) + 4 pixels of logits, which must be 1 or more.
        coarsest = 4 - 3 // self.size_step
        return self.size_step * (coarsest + 8) - 4

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each pixel of ``images``."""
        if self.padding not in ("VALID", "SAME"):
            raise ValueError(f'padding must be "VALID" or "SAME", got {self.padding!r}')
        check_images(images, min_size=self.min_size, size_step=self.size_step)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_size=(3, 3), padding=self.padding, kernel_init=he_normal, **types)
        up_conv = partial(
            ConvTranspose,
            kernel_size=(2, 2),
            strides=(2, 2),
            transpose_kernel=True,
            kernel_init=he_transposed,
            **types,
        )
        down_class = nn.remat(DownStage, static_argnums=(2,)) if self.remat else DownStage
        up_class = nn.remat(UpStage) if self.remat else UpStage
        dropout_rates = (0.0,) * (len(self.features) - 2) + (self.dropout_rate,) * 2

        down = tuple(
            partial(down_class, features, conv, self.activation, rate)
            for features, rate in zip(self.features, dropout_rates, strict=True)
        )
        up = tuple(partial(up_class, features, conv, up_conv, self.activation) for features in self.features[-2::-1])
        maps = Encoder(down, name="encoder")(images, train)
        x = Decoder(up, name="decoder")(maps)
        return Head(self.num_classes, **types, name="head")(x)


# Grey microscopy images, pixels in [0, 1].
_info = partial(
    ModelInfo,
    family="unet",
    paper="Ronneberger et al. 2015, arXiv:1505.04597, figure 1",
    num_params=31_030_658,
    task="segmentation",
    num_classes=2,
    channels=1,
    size_step=16,
    mean=(0.0,),
    std=(1.0,),
)

VARIANTS = {
    "unet": Variant(
        UNet, {"padding": "VALID"}, _info(input_size=(572, 572), output_size=(388, 388), min_size=188, gmacs=150.428)
    ),
    "unet_same": Variant(UNet, {"padding": "SAME"}, _info(input_size=(512, 512), min_size=16)),
}
