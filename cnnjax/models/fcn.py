"""FCN: a classification network whose head labels each pixel.

Long, Shelhamer and Darrell 2015, "Fully convolutional networks for semantic segmentation", arXiv:1411.4038v2, sections
3 and 4.

These are torchvision's networks, which differ from the paper's: ResNet takes the place of VGG16, its last two stages
are dilated instead of strided (output stride 8), so that no maps of earlier stages need to be added; the head is a 3x3
convolution with a quarter of the channels and a 1x1 convolution to classes; bilinear interpolation takes the place of
learned upsampling; an auxiliary head of the same form labels pixels from the last stage but one.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from cnnjax.models import resnet
from cnnjax.models.variant import ModelInfo, Variant
from cnnjax.nn import resize_bilinear
from cnnjax.nn.building import PixelClassifierHead, check_images, sow_aux_logits


class Row(NamedTuple):
    """A network of torchvision: parameters (auxiliary head included), multiply-adds (1e9), results in percent."""

    backbone: str
    num_params: int
    gmacs: float
    mean_iou: float
    pixel_accuracy: float


# torchvision's weights COCO_WITH_VOC_LABELS_V1, 520 pixels; multiply-adds include the auxiliary head.
TABLE = {
    "fcn_resnet50": Row("resnet50", 35_322_218, 152.717, 60.5, 91.4),
    "fcn_resnet101": Row("resnet101", 54_314_346, 232.738, 63.7, 91.9),
}
# Fields of the networks that can be the encoder.
BACKBONES = MappingProxyType(
    {name: variant.fields for name, variant in resnet.VARIANTS.items() if len(variant.fields["stage_sizes"]) == 4}
)


class FCN(nn.Module):
    """FCN on a dilated ResNet.

    Source: Long et al. 2015, arXiv:1411.4038, section 4; differs: see the head of this file.

    Attributes:
      backbone: variant of ResNet that is the encoder.
      output_stride: pixels of the image for each pixel that the head sees: 8, 16 or 32.
      aux: have the auxiliary head. It runs, in both modes, when the caller makes the collection ``aux_logits`` mutable,
        and is found there as ``aux1``.
      dropout_rate: before the 1x1 convolutions.
      remat: recompute the inside of each stage of the encoder in the backward pass instead of keeping it.

    Args:
      images: float[batch, height, width, channels], zero mean and unit variance a channel; 32 pixels or more.
      train: normalise with the batch's statistics, move the running ones (``mutable=["batch_stats"]``), drop out.
    Returns:
      float32[batch, height, width, num_classes] logits, before softmax; float32[batch, height / output_stride, width /
      output_stride, features] when ``num_classes`` is 0.
    Raises:
      ValueError: images too small; an unknown backbone.
    """

    backbone: str = "resnet50"
    num_classes: int = 21
    output_stride: int = 8
    aux: bool = True
    dropout_rate: float = 0.1
    remat: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of each pixel of ``images``."""
        check_images(images, min_size=32)
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {self.backbone!r}")
        types: dict[str, Any] = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        head = partial(PixelClassifierHead, self.num_classes, dropout_rate=self.dropout_rate, **types)
        size = (images.shape[1], images.shape[2])

        fields = dict(BACKBONES[self.backbone]) | {"output_stride": self.output_stride, "remat": self.remat}
        before_last, last = resnet.ResNetEncoder(**fields, **types, name="encoder")(images, train)
        logits = head(name="head")(last, train)
        if self.num_classes == 0:
            return logits
        if self.aux and (self.is_initializing() or self.is_mutable_collection("aux_logits")):
            aux_logits = resize_bilinear(head(name="aux1")(before_last, train), size)
            sow_aux_logits(self, "aux1", aux_logits)
        return resize_bilinear(logits, size)


def _variant(row: Row) -> Variant:
    info = ModelInfo(
        family="fcn",
        paper="Long et al. 2015, arXiv:1411.4038, section 4",
        num_params=row.num_params,
        task="segmentation",
        num_classes=21,
        input_size=(520, 520),
        gmacs=row.gmacs,
        result=f"mean IoU {row.mean_iou} %, pixel accuracy {row.pixel_accuracy} % (COCO val2017, VOC's classes)",
        weights="torchvision COCO_WITH_VOC_LABELS_V1",
    )
    return Variant(FCN, {"backbone": row.backbone}, info)


VARIANTS = {name: _variant(row) for name, row in TABLE.items()}
