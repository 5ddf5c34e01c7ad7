"""Networks with published weights; weights of other libraries into our variables, and ours into theirs.

>>> import cnnjax, jax
>>> variables = jax.eval_shape(
...     cnnjax.create_model("resnet18").init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
... )
>>> variables["params"]["stage2"]["block1"]["proj_conv"]["kernel"].shape
(1, 1, 64, 128)
>>> cnnjax.pretrained.reference_shapes("resnet18")["layer2.0.downsample.0.weight"]
(128, 64, 1, 1)
"""

from cnnjax.pretrained.channels import adapt_format, adapt_kernel
from cnnjax.pretrained.classes import imagenet_classes
from cnnjax.pretrained.convert import from_state_dict, to_state_dict
from cnnjax.pretrained.drawn import drawn_network
from cnnjax.pretrained.folder import write_folder
from cnnjax.pretrained.info import weights_info
from cnnjax.pretrained.load import load
from cnnjax.pretrained.plan import reference_shapes, sources
from cnnjax.pretrained.published import list_weights
from cnnjax.pretrained.save import save
from cnnjax.pretrained.source import from_source
from cnnjax.pretrained.weights import WeightsInfo
from cnnjax.runs.images import ImageFormat
from cnnjax.runs.network import LoadedNetwork, Prediction
from cnnjax.runs.reader import WeightsFileError

__all__ = [
    "ImageFormat",
    "LoadedNetwork",
    "Prediction",
    "WeightsFileError",
    "WeightsInfo",
    "adapt_format",
    "adapt_kernel",
    "drawn_network",
    "from_source",
    "from_state_dict",
    "imagenet_classes",
    "list_weights",
    "load",
    "reference_shapes",
    "save",
    "sources",
    "to_state_dict",
    "weights_info",
    "write_folder",
]
