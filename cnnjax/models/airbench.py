"""Airbench: networks for CIFAR-10 that learn in seconds.

Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, and the author's programs of the
variants' names.

A frozen first layer that whitens patches of 2x2 pixels (`cnnjax.nn.whitening_kernel`; drawn at random until somebody
sets it, as ``--whitening-images`` of ``experiments/train.py`` does), three groups of 3x3 convolutions, and a last layer
without bias whose logits are divided by 9. Batch normalisations learn a bias and no scale; the convolutions of the
groups start as identities as far as they have inputs (`cnnjax.nn.dirac`). Differs from the paper in the last pooling,
which takes the maximum over the whole map instead of 3x3 places, so that images of other sizes are taken too; at 32
pixels both are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models.variant import CIFAR10_MEAN, CIFAR10_STD, ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, dirac, max_pool, torch_uniform
from cnnjax.nn.activation import gelu
from cnnjax.nn.building import check_images


class Row(NamedTuple):
    """A network: widths of its groups, convolutions in each, momentum of its statistics, parameters and accuracy."""

    widths: tuple[int, int, int]
    convolutions: int
    norm_momentum: float
    num_params: int
    accuracy: float


# Of the paper, for 94, 95 and 96 % accuracy.
NETWORKS = {
    "airbench94": Row((64, 256, 256), 2, 0.6, 1_971_640, 94.01),
    "airbench95": Row((128, 384, 384), 2, 0.6, 4_604_728, 95.01),
    "airbench96": Row((128, 384, 512), 3, 0.9, 9_915_704, 96.0),
}
# Both signs of every eigenvector of 2x2 patches of three channels.
STEM_FEATURES = 24
LOGIT_SCALE = 1 / 9
# One place is left after the third pooling.
MIN_SIZE = 9

ModuleDef = Callable[..., Any]


class Stem(nn.Module):
    """A 2x2 convolution that whitens, and an activation: one pixel less in height and width, 24 features."""

    conv: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve ``x``, float[batch, height, width, channels]."""
        return self.activation(self.conv(STEM_FEATURES, (2, 2), padding="VALID", name="conv1")(x))


class Group(nn.Module):
    """Convolve, halve the map by its maxima, and convolve again; the third convolution's result joins the first's.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics.
    Returns:
      float[batch, height // 2, width // 2, features].
    """

    features: int
    convolutions: int
    conv: ModuleDef
    norm: ModuleDef
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Apply the group to ``x``."""
        shortcut = x
        for index in range(1, self.convolutions + 1):
            x = self.conv(self.features, (3, 3), padding=1, use_bias=False, kernel_init=dirac, name=f"conv{index}")(x)
            if index == 1:
                x = max_pool(x, 2)
            x = self.norm(use_running_average=not train, name=f"norm{index}")(x)
            if index == 3:
                x = x + shortcut
            x = self.activation(x)
            if index == 1:
                shortcut = x
        return x


class Head(nn.Module):
    """Take the maximum over space, and classify without a bias; logits are divided by 9.

    Args:
      x: float[batch, height, width, channels].
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, channels] when ``num_classes`` is 0.
    """

    num_classes: int
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of ``x``."""
        x = max_pool(x, x.shape[1:3])[:, 0, 0]
        if self.num_classes == 0:
            return x.astype(jnp.float32)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(self.num_classes, use_bias=False, kernel_init=torch_uniform, **types, name="classifier")(x)
        return x.astype(jnp.float32) * LOGIT_SCALE


class Airbench(nn.Module):
    """Airbench: a layer that whitens, three groups of convolutions, maximum over space, classifier.

    Source: Jordan 2024, arXiv:2404.00498; differs: the last pooling, see the file.

    Attributes:
      widths: features of the three groups.
      convolutions: in each group, 2 or 3.
      norm_momentum: share of the running statistics that a step keeps.
      remat: recompute the inside of each group in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance per channel; 9 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, num_classes] logits, before softmax; float32[batch, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; other than 2 or 3 convolutions.
    """

    widths: tuple[int, ...]
    convolutions: int
    norm_momentum: float
    num_classes: int = 10
    activation: Callable[[jax.Array], jax.Array] = gelu
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        check_images(images, min_size=MIN_SIZE)
        if self.convolutions not in (2, 3):
            raise ValueError(f"convolutions of a group must be 2 or 3, got {self.convolutions}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=torch_uniform, **types)
        # The author's epsilon: maps of no variance are not to be expected.
        norm = partial(
            BatchNorm,
            momentum=self.norm_momentum,
            epsilon=1e-12,
            use_scale=False,
            axis_name=self.axis_name,
            **types,
        )
        group = nn.remat(Group, static_argnums=(2,)) if self.remat else Group

        x = Stem(conv, self.activation, name="stem")(images)
        for index, features in enumerate(self.widths, start=1):
            x = group(features, self.convolutions, conv, norm, self.activation, name=f"stage{index}")(x, train)
        return Head(self.num_classes, **types, name="head")(x)


VARIANTS = {
    name: Variant(
        Airbench,
        {"widths": row.widths, "convolutions": row.convolutions, "norm_momentum": row.norm_momentum},
        ModelInfo(
            family="airbench",
            paper="Jordan 2024, arXiv:2404.00498",
            num_params=row.num_params,
            num_classes=10,
            input_size=(32, 32),
            min_size=MIN_SIZE,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            result=f"{row.accuracy} % (CIFAR-10)",
        ),
    )
    for name, row in NETWORKS.items()
}
