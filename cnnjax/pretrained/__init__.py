"""Weights of other libraries into our variables, and ours into theirs.

>>> import cnnjax, jax
>>> variables = jax.eval_shape(
...     cnnjax.create_model("resnet18").init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
... )
>>> variables["params"]["stage2"]["block1"]["proj_conv"]["kernel"].shape
(1, 1, 64, 128)
>>> cnnjax.pretrained.reference_shapes("resnet18")["layer2.0.downsample.0.weight"]
(128, 64, 1, 1)
"""

from cnnjax.pretrained.classes import imagenet_classes
from cnnjax.pretrained.classifier import Classifier, open_run, open_variant
from cnnjax.pretrained.convert import from_state_dict, reference_shapes, sources, to_state_dict
from cnnjax.pretrained.load import image_format, load
from cnnjax.runs.images import ImageFormat
from cnnjax.runs.reader import WeightsFileError

__all__ = [
    "Classifier",
    "ImageFormat",
    "WeightsFileError",
    "from_state_dict",
    "image_format",
    "imagenet_classes",
    "load",
    "open_run",
    "open_variant",
    "reference_shapes",
    "sources",
    "to_state_dict",
]
