"""DeepLabv3, which sees each place through dilated convolutions of several rates.

Chen, Papandreou, Schroff and Adam 2017, "Rethinking atrous convolution for semantic image segmentation",
arXiv:1706.05587v3, section 3 and figure 5.

These are torchvision's networks, which differ from the paper's: rates 12, 24 and 36 at output stride 8 (the paper
doubles its 6, 12 and 18 there, so the same) but also at output stride 16 (MobileNetV3), one more 3x3 convolution
before the classes, dropout of 0.5, no multi-grid, and an auxiliary head on an earlier map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models import mobilenet_v3, resnet
from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import BatchNorm, Conv, resize_bilinear, torch_uniform
from cnnjax.nn.activation import relu
from cnnjax.nn.building import ConvNorm, PixelClassifierHead, check_images, sow_aux_logits


class Row(NamedTuple):
    """A network of torchvision: parameters (auxiliary head included), multiply-adds (1e9), results in percent."""

    backbone: str
    output_stride: int
    num_params: int
    gmacs: float
    mean_iou: float
    pixel_accuracy: float
    min_size: int


# torchvision's weights COCO_WITH_VOC_LABELS_V1, 520 pixels; multiply-adds include the auxiliary head.
# fmt: off
TABLE = {
    "deeplabv3_resnet50":           Row("resnet50",           8, 42_004_074, 178.722, 66.4, 92.4, 32),
    "deeplabv3_resnet101":          Row("resnet101",          8, 60_996_202, 258.743, 67.4, 92.4, 32),
    "deeplabv3_mobilenet_v3_large": Row("mobilenet_v3_large", 16, 11_029_328, 10.452, 60.3, 91.2, 1),
}
# fmt: on


# What can be the encoder.
BACKBONES: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        name: partial(resnet.ResNetEncoder, **variant.fields)
        for name, variant in resnet.VARIANTS.items()
        if len(variant.fields["stage_sizes"]) == 4
    }
    | {
        name: partial(mobilenet_v3.MobileNetV3Encoder, **variant.fields)
        for name, variant in mobilenet_v3.VARIANTS.items()
    }
)
# Dilation of the 3x3 convolutions side by side.
RATES = (12, 24, 36)
FEATURES = 256


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling (figure 5 b), a 3x3 convolution and the 1x1 convolution to classes.

    Side by side: a 1x1 convolution, 3x3 convolutions of the given rates, and the mean of the map, convolved 1x1.

    Args:
      x: float[batch, height, width, in_features].
      train: True normalises with the batch's statistics and drops out.
    Returns:
      float32[batch, height, width, num_classes] logits; float32[batch, height, width, features] when ``num_classes`` is
      0.
    """

    num_classes: int
    rates: tuple[int, ...]
    features: int
    dropout_rate: float
    axis_name: str | None
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return the logits of each place of ``x``."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=torch_uniform, **types)
        norm = partial(BatchNorm, axis_name=self.axis_name, **types)
        layer = partial(ConvNorm, self.features, conv, norm, relu)

        branches = [layer(name="branch1")(x, train)]
        for index, rate in enumerate(self.rates, start=2):
            branches.append(layer(kernel_size=3, dilation=rate, name=f"branch{index}")(x, train))
        mean = x.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        mean = layer(name=f"branch{len(self.rates) + 2}")(mean, train)
        branches.append(resize_bilinear(mean, (x.shape[1], x.shape[2])))

        x = layer(name="project")(jnp.concatenate(branches, axis=-1), train)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = layer(kernel_size=3, name="smooth")(x, train)
        if self.num_classes > 0:
            x = Conv(self.num_classes, (1, 1), kernel_init=torch_uniform, **types, name="classifier")(x)
        return x.astype(jnp.float32)


class DeepLabV3(nn.Module):
    """DeepLabv3 on a dilated ResNet or MobileNetV3.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3; differs: see the head of this file.

    Attributes:
      backbone: variant of ResNet or MobileNetV3 that is the encoder.
      output_stride: pixels of the image for each pixel that the head sees: 8, 16 or 32.
      rates: dilations of the 3x3 convolutions side by side.
      features: width of all layers of the head but the last.
      aux: have the auxiliary head. It runs, in both modes, when the caller makes the collection ``aux_logits`` mutable,
        and is found there as ``aux1``.
      dropout_rate: after the parts side by side are joined.
      aux_dropout_rate: before the classes of the auxiliary head.
      remat: recompute the inside of each stage of the encoder in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more with
        ResNet.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop out. The
        mean of a map is one number per channel and image, so a batch of one image has nothing to normalise.
    Returns:
      float32[batch, height, width, num_classes] logits, before softmax; float32[batch, height / output_stride, width /
      output_stride, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; an unknown backbone.
    """

    backbone: str = "resnet50"
    num_classes: int = 21
    output_stride: int = 8
    rates: tuple[int, ...] = RATES
    features: int = FEATURES
    aux: bool = True
    dropout_rate: float = 0.5
    aux_dropout_rate: float = 0.1
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
        size = (images.shape[1], images.shape[2])

        make_encoder = BACKBONES[self.backbone]
        encoder = make_encoder(output_stride=self.output_stride, remat=self.remat, **types, name="encoder")
        early, last = encoder(images, train)
        head = DeepLabHead(self.num_classes, self.rates, self.features, self.dropout_rate, **types, name="head")
        logits = head(last, train)
        if self.num_classes == 0:
            return logits
        if self.aux and (self.is_initializing() or self.is_mutable_collection("aux_logits")):
            aux_head = PixelClassifierHead(self.num_classes, dropout_rate=self.aux_dropout_rate, **types, name="aux1")
            aux_logits = resize_bilinear(aux_head(early, train), size)
            sow_aux_logits(self, "aux1", aux_logits)
        return resize_bilinear(logits, size)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="deeplabv3",
        paper="Chen et al. 2017, arXiv:1706.05587, section 3",
        num_params=row.num_params,
        task="segmentation",
        num_classes=21,
        input_size=(520, 520),
        min_size=row.min_size,
        gmacs=row.gmacs,
        result=f"mean IoU {row.mean_iou} %, pixel accuracy {row.pixel_accuracy} % (COCO val2017, VOC's classes)",
        weights="torchvision COCO_WITH_VOC_LABELS_V1",
    )
    return Variant(DeepLabV3, {"backbone": row.backbone, "output_stride": row.output_stride}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE.items()}
