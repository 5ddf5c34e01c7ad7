"""LR-ASPP, the light head with which MobileNetV3 labels pixels.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le and Adam 2019, "Searching for MobileNetV3",
arXiv:1905.02244v5, section 6.4 and figure 10.

As in torchvision, differing from the paper: the mean that gates the head is taken over the whole map (over large
windows with a large stride there), and the encoder's last block keeps its width (one of the paper's options).
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models import mobilenet_v3
from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, resize_bilinear, torch_uniform
from cnnjax.nn.building import check_images

# Width of the head (figure 10).
FEATURES = 128
# Fields of the networks that can be the encoder.
BACKBONES = MappingProxyType({name: variant.fields for name, variant in mobilenet_v3.VARIANTS.items()})


class LRASPPHead(nn.Module):
    """Classes from a coarse map, gated by its mean, plus classes from a finer one.

    Args:
      low: float[batch, height, width, low_features], the finer map.
      high: float[batch, high_height, high_width, high_features], the coarse map.
      train: True normalises with the batch's statistics.
    Returns:
      float32[batch, height, width, num_classes] logits; float32[batch, height, width, features], the gated map, when
      ``num_classes`` is 0.
    """

    num_classes: int
    features: int
    axis_name: str | None
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, low: jax.Array, high: jax.Array, train: bool) -> jax.Array:
        """Return the logits of each place of ``low``."""
        conv = partial(Conv, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=torch_uniform)
        norm = BatchNorm(axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype, name="norm1")

        x = conv(self.features, (1, 1), use_bias=False, name="conv1")(high)
        x = nn.relu(norm(x, use_running_average=not train))
        mean = high.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(high.dtype)
        x = x * nn.sigmoid(conv(self.features, (1, 1), use_bias=False, name="scale_conv")(mean))
        x = resize_bilinear(x, (low.shape[1], low.shape[2]))
        if self.num_classes > 0:
            x = conv(self.num_classes, (1, 1), name="classifier")(x) + conv(
                self.num_classes, (1, 1), name="low_classifier"
            )(low)
        return x.astype(jnp.float32)


class LRASPP(nn.Module):
    """LR-ASPP on a dilated MobileNetV3.

    Source: Howard et al. 2019, arXiv:1905.02244, section 6.4; differs: see the head of this file.

    Attributes:
      backbone: variant of MobileNetV3 that is the encoder.
      output_stride: pixels of the image for each pixel of the coarse map: 8, 16 or 32.
      features: width of the head.
      remat: recompute the inside of each stage of the encoder in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; any size.
      train: normalise with the batch's statistics and move the running ones (``mutable=["batch_stats"]``).
    Returns:
      float32[batch, height, width, num_classes] logits, before softmax; float32[batch, height / 8, width / 8, features]
      when ``num_classes`` is 0.
    Raises:
      ValueError: an unknown backbone.
    """

    backbone: str = "mobilenet_v3_large"
    num_classes: int = 21
    output_stride: int = 16
    features: int = FEATURES
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each pixel of ``images``."""
        check_images(images)
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}")
        types: dict[str, Any] = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        fields = dict(BACKBONES[self.backbone]) | {"output_stride": self.output_stride, "remat": self.remat}
        low, high = mobilenet_v3.MobileNetV3Encoder(**fields, **types, name="encoder")(images, train)
        logits = LRASPPHead(self.num_classes, self.features, **types, name="head")(low, high, train)
        return logits if self.num_classes == 0 else resize_bilinear(logits, (images.shape[1], images.shape[2]))


VARIANTS = {
    "lraspp_mobilenet_v3_large": Variant(
        LRASPP,
        {"backbone": "mobilenet_v3_large"},
        ModelInfo(
            family="lraspp",
            paper="Howard et al. 2019, arXiv:1905.02244, section 6.4",
            num_params=3_221_538,
            task="segmentation",
            num_classes=21,
            input_size=(520, 520),
            min_size=1,
            gmacs=2.086,
            result="mean IoU 57.9 %, pixel accuracy 91.2 % (COCO val2017, VOC's classes)",
            weights="torchvision COCO_WITH_VOC_LABELS_V1",
        ),
    ),
}
