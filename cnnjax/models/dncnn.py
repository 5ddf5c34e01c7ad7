"""DnCNN, which removes noise from images by predicting it.

Zhang, Zuo, Chen, Meng and Zhang 2017, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
arXiv:1608.03981v1 (IEEE Transactions on Image Processing 26(7)), section III and figure 1.

The paper leaves two things open. Convolutions have no biases here: batch normalisation follows all but the first and
last (the authors' PyTorch code gives the first one a bias). Batch normalisation takes epsilon 1e-4, as in their code.
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
from cnnjax.nn import BatchNorm, Conv
from cnnjax.nn.activation import relu
from cnnjax.nn.building import check_images

PAPER = "Zhang et al. 2017, arXiv:1608.03981, section III and table II"


class Row(NamedTuple):
    """Section III.A and IV.A: number of convolutions, image channels, size of the training patches."""

    depth: int
    channels: int
    patch: int
    num_params: int
    result: str | None


# PSNR in dB on the 68 images of BSD68 with noise of standard deviation 15, 25 and 50 (table II).
# fmt: off
TABLE = {
    # DnCNN-S: one network a noise level.
    "dncnn17_grey":   Row(17, 1, 40, 556_032, "PSNR 31.73 / 29.23 / 26.23 dB on BSD68 at noise 15 / 25 / 50"),
    "dncnn17_colour": Row(17, 3, 40, 558_336, None),
    # DnCNN-B: one network for all levels up to 55.
    "dncnn20_grey":   Row(20, 1, 50, 667_008, "PSNR 31.61 / 29.16 / 26.23 dB on BSD68 at noise 15 / 25 / 50, blind"),
    "dncnn20_colour": Row(20, 3, 50, 669_312, None),
}
# fmt: on

ModuleDef = Callable[..., Any]


class ConvBlock(nn.Module):
    """Convolve 3x3 and activate, with batch normalisation between the two where the paper has it.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height, width, features].
    """

    conv: ModuleDef
    norm: ModuleDef | None
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the block to ``x``."""
        x = self.conv(name="conv1")(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, name="norm1")(x)
        return self.activation(x)


class Stage(nn.Module):
    """The normalised blocks between first and last convolution (layer type ii of section III.A)."""

    num_blocks: int
    make_block: Callable[..., ConvBlock]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the blocks to ``x``."""
        for index in range(self.num_blocks):
            x = self.make_block(name=f"block{index + 1}")(x, train)
        return x


class Head(nn.Module):
    """The last convolution, from features to image channels (layer type iii)."""

    conv: ModuleDef

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map float[batch, height, width, features] to float[batch, height, width, channels]."""
        return self.conv(name="conv1")(x)


class DnCNN(nn.Module):
    """DnCNN: the noise R(y) predicted by a plain stack of 3x3 convolutions, taken away from the noisy image y.

    Source: Zhang et al. 2017, arXiv:1608.03981, section III.A; differs: see the head of this file.

    Attributes:
      depth: convolutions in all (D in the paper), 3 or more.
      features: width of all layers but the last.
      residual: return y - R(y); False returns R(y) itself as the clean image (the comparison of section III.B).
      batch_norm: False leaves the normalisations out, and gives their convolutions biases (the same comparison).
      padding: of all convolutions, as `cnnjax.nn.Conv` takes it: 1 puts zeros around, "CIRCULAR" the other side.
      epsilon: of all normalisations.
      remat: recompute the inside of the normalised blocks in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], noisy, pixels in [0, 1]; any size.
      train: normalise with the batch's statistics and move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, height, width, channels], the clean images.
    Raises:
      ValueError: fewer than 3 convolutions asked for.
    """

    depth: int = 17
    features: int = 64
    residual: bool = True
    batch_norm: bool = True
    activation: Callable[[jax.Array], jax.Array] = relu
    padding: int | str = 1
    epsilon: float = 1e-4
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the clean version of ``images``."""
        check_images(images)
        if self.depth < 3:
            raise ValueError(f"depth must be at least 3 (first, middle and last convolution), got {self.depth}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(
            Conv,
            kernel_size=(3, 3),
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            **types,
        )
        norm = partial(BatchNorm, epsilon=self.epsilon, axis_name=self.axis_name, **types) if self.batch_norm else None
        wide = partial(conv, self.features)
        middle = partial(ConvBlock, partial(wide, use_bias=not self.batch_norm), norm, self.activation)
        stage_class = nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage

        x = ConvBlock(wide, None, self.activation, name="stem")(images, train)
        x = stage_class(self.depth - 2, middle, name="stage1")(x, train)
        x = Head(partial(conv, images.shape[-1]), name="head")(x).astype(jnp.float32)
        return images.astype(jnp.float32) - x if self.residual else x


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="dncnn",
        paper=PAPER,
        num_params=row.num_params,
        task="restoration",
        num_classes=None,
        input_size=(row.patch, row.patch),
        channels=row.channels,
        min_size=1,
        mean=(0.0,) * row.channels,
        std=(1.0,) * row.channels,
        result=row.result,
    )
    return Variant(DnCNN, {"depth": row.depth}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE.items()}
