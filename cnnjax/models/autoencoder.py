"""Convolutional autoencoders: one that compresses images to a short code, one that takes noise away.

Guo, Liu, Zhu and Yin 2017, "Deep clustering with convolutional autoencoders", ICONIP 2017, LNCS 10635, figure 1 (older
sources draw such networks too; this one states every layer). Not on arXiv. ``conv_autoencoder``: three convolutions of
stride 2, a dense layer to a code of 10 numbers, and their mirror image with transposed convolutions.
Padding as in the authors' code: the innermost pair of convolutions is unpadded when a quarter of the image is an odd
number of pixels (28 -> 14 -> 7 -> 3 and back), so that sizes come out even.

Valdarrama 2021, "Convolutional autoencoder for image denoising", Keras code examples (keras.io/examples/vision/
autoencoder; no paper). ``denoising_autoencoder``: convolutions and max pooling down, transposed convolutions up, no
bottleneck of dense layers. Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders",
ICML, is where the idea is from.

Both pad as TensorFlow's SAME rule does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import Conv, ConvTranspose, max_pool
from cnnjax.nn.activation import logistic, relu
from cnnjax.nn.building import check_images

# (features, kernel) of each convolution of stride 2, outermost first: Guo et al. 2017, figure 1.
CONVOLUTIONS = ((32, 5), (64, 5), (128, 3))
LATENT_FEATURES = 10
# Features of each level, outermost first: Valdarrama 2021.
DENOISING_FEATURES = (32, 32)

# Glorot's uniform distribution for kernels [height, width, features, in_features] of transposed convolutions.
transposed_glorot = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=-1, out_axis=-2)


def _pads(size: int, kernel: int) -> tuple[int, int]:
    """Return the padding with which stride 2 halves ``size``: TensorFlow's SAME if it is even, none if it is odd."""
    return ((kernel - 2) // 2, (kernel - 1) // 2) if size % 2 == 0 else (0, 0)


def _halved(size: int, kernel: int) -> int:
    return (size + sum(_pads(size, kernel)) - kernel) // 2 + 1


class Encoder(nn.Module):
    """Convolutions of stride 2, each activated, and a dense layer.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float[batch, latent_features].
    """

    convolutions: tuple[tuple[int, int], ...]
    latent_features: int
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the codes of ``x``."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.glorot_uniform()
        for index, (features, kernel) in enumerate(self.convolutions, start=1):
            pads = [_pads(size, kernel) for size in x.shape[1:3]]
            conv = Conv(
                features, (kernel, kernel), strides=2, padding=pads, kernel_init=init, name=f"conv{index}", **types
            )
            x = self.activation(conv(x))
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return nn.Dense(self.latent_features, kernel_init=init, name="latent", **types)(x)


class Decoder(nn.Module):
    """The encoder's mirror image: a dense layer and transposed convolutions of stride 2; the last is linear.

    Args:
      codes: float[batch, latent_features].
      image_shape: height, width and channels to return.
    Returns:
      float[batch, height, width, channels].
    """

    convolutions: tuple[tuple[int, int], ...]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, codes: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
        """Return the images of ``codes``."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        *sizes, channels = image_shape
        # Forwards, to learn what each convolution of the encoder saw; then back.
        levels = []
        for features, kernel in self.convolutions:
            levels.append((channels, kernel, sizes))
            channels, sizes = features, [_halved(size, kernel) for size in sizes]
        x = nn.Dense(math.prod(sizes) * channels, kernel_init=nn.initializers.glorot_uniform(), name="dense1", **types)(
            codes
        )
        x = x.reshape(x.shape[0], *sizes, channels)
        for index, (features, kernel, sizes) in enumerate(reversed(levels), start=1):
            x = self.activation(x)
            # What the encoder's padding took from the full transposed convolution.
            pads = [(kernel - 1 - low, kernel - 1 - high) for low, high in (_pads(size, kernel) for size in sizes)]
            x = ConvTranspose(
                features,
                (kernel, kernel),
                strides=(2, 2),
                padding=pads,
                transpose_kernel=True,
                kernel_init=transposed_glorot,
                name=f"conv{index}",
                **types,
            )(x)
        return x


class ConvAutoencoder(nn.Module):
    """Convolutional autoencoder with a dense code: images to ``latent_features`` numbers and back.

    ``model.apply(variables, images, method="encode")`` gives the codes, ``model.apply(variables, codes,
    image_shape=(28, 28, 1), method="decode")`` images of them. Train it on the mean squared error.

    Source: Guo et al. 2017, figure 1; differs: nothing.

    Attributes:
      convolutions: features and kernel size of each convolution of the encoder; the decoder mirrors them.
      latent_features: length of the code.

    Args:
      images: float[batch, height, width, channels], pixels in [0, 1]; 8, 12, 16, ... pixels a side. The parameters
        belong to one size.
      train: no layer of this network depends on it.
    Returns:
      float32[batch, height, width, channels], not clipped.
    Raises:
      ValueError: height or width under 8 pixels or not a multiple of 4.
    """

    convolutions: tuple[tuple[int, int], ...] = CONVOLUTIONS
    latent_features: int = LATENT_FEATURES
    activation: Callable[[jax.Array], jax.Array] = relu
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Make the two halves."""
        rest: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = Encoder(self.convolutions, self.latent_features, **rest)
        self.decoder = Decoder(self.convolutions, **rest)

    def encode(self, images: jax.Array) -> jax.Array:
        """Return the codes of ``images``: float32[batch, latent_features]."""
        step = 2 ** (len(self.convolutions) - 1)
        check_images(images, min_size=2 * step, size_step=step)
        return self.encoder(images).astype(jnp.float32)

    def decode(self, codes: jax.Array, image_shape: tuple[int, int, int]) -> jax.Array:
        """Return the images of ``codes``: float32[batch, *image_shape]."""
        return self.decoder(codes, image_shape).astype(jnp.float32)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return ``images`` as they come out of their codes."""
        height, width, channels = images.shape[1:]
        return self.decode(self.encode(images), (height, width, channels))


class DenoisingEncoder(nn.Module):
    """3x3 convolutions, each activated and halved by 2x2 max pooling.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float[batch, height / 2^n, width / 2^n, features[-1]] after n levels.
    """

    features: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the feature maps of ``x``."""
        conv = partial(
            Conv,
            kernel_size=(3, 3),
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        for index, features in enumerate(self.features, start=1):
            x = max_pool(self.activation(conv(features, name=f"conv{index}")(x)), 2)
        return x


class DenoisingDecoder(nn.Module):
    """3x3 transposed convolutions of stride 2, each activated.

    Args:
      x: float[batch, height, width, in_features].
    Returns:
      float[batch, height * 2^n, width * 2^n, features[-1]] after n levels.
    """

    features: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return enlarged feature maps."""
        conv = partial(
            ConvTranspose,
            kernel_size=(3, 3),
            strides=(2, 2),
            transpose_kernel=True,
            kernel_init=transposed_glorot,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        for index, features in enumerate(self.features, start=1):
            x = self.activation(conv(features, name=f"conv{index}")(x))
        return x


class DenoisingHead(nn.Module):
    """A 3x3 convolution to image channels, squashed into pixels.

    Args:
      x: float[batch, height, width, features].
    Returns:
      float32[batch, height, width, channels].
    """

    channels: int
    output_activation: Callable[[jax.Array], jax.Array]
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the images of ``x``."""
        init = nn.initializers.glorot_uniform()
        x = Conv(self.channels, (3, 3), kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype, name="conv1")(
            x
        )
        return self.output_activation(x.astype(jnp.float32))


class DenoisingAutoencoder(nn.Module):
    """Convolutional autoencoder that maps noisy images to clean ones.

    Train it on noisy inputs and clean targets, with the cross-entropy a pixel or the squared error.

    Source: Valdarrama 2021 (see the head of this file); differs: nothing.

    Attributes:
      features: width of each level of the encoder; the decoder mirrors them.
      output_activation: squashes the output into pixels.

    Args:
      images: float[batch, height, width, channels], pixels in [0, 1]; 4, 8, 12, ... pixels a side.
      train: no layer of this network depends on it.
    Returns:
      float32[batch, height, width, channels] in (0, 1).
    Raises:
      ValueError: height or width not a multiple of 4.
    """

    features: tuple[int, ...] = DENOISING_FEATURES
    activation: Callable[[jax.Array], jax.Array] = relu
    output_activation: Callable[[jax.Array], jax.Array] = logistic
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the clean version of ``images``."""
        step = 2 ** len(self.features)
        check_images(images, min_size=step, size_step=step)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = DenoisingEncoder(self.features, self.activation, **types, name="encoder")(images)
        x = DenoisingDecoder(self.features[::-1], self.activation, **types, name="decoder")(x)
        return DenoisingHead(images.shape[-1], self.output_activation, **types, name="head")(x)


# Both are for the digits of MNIST, pixels in [0, 1].
_info = partial(
    ModelInfo,
    family="autoencoder",
    task="restoration",
    num_classes=None,
    input_size=(28, 28),
    channels=1,
    size_step=4,
    mean=(0.0,),
    std=(1.0,),
)

VARIANTS = {
    "conv_autoencoder": Variant(
        ConvAutoencoder,
        {},
        _info(paper="Guo et al. 2017, ICONIP, LNCS 10635, figure 1", num_params=275_979, min_size=8),
    ),
    "denoising_autoencoder": Variant(
        DenoisingAutoencoder,
        {},
        _info(paper="Valdarrama 2021, keras.io/examples/vision/autoencoder", num_params=28_353, min_size=4),
    ),
}
