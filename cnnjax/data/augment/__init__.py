"""Augmentation on the device, inside the compiled step, on batches.

Each operation is a frozen dataclass with a strength and a probability; it is called with a batch and one random key an
example, and what it does to an example depends on that example and its key (mixing: on the neighbour's too). So any
number of devices augments as one does.

dm-pix, the library of image operations for JAX, was tried (0.4.5): its hue, saturation, rotation and elastic
deformation fail under strict type promotion, it takes float images only, and its contrast and saturation are not those
of the policies' papers and of torchvision. Operations here are checked against torchvision's results.
"""

from cnnjax.data.augment.chain import OPERATIONS, augment, needs_turns, parse, parse_all
from cnnjax.data.augment.colour import Brightness, ChannelShuffle, Contrast, Gamma, Grey, Hue, Saturation, Sharpness
from cnnjax.data.augment.geometry import Crop, Elastic, Mirror, Rotate, Shear, Translate, VerticalMirror, Zoom
from cnnjax.data.augment.mixing import Background, CutMix, Mixup, MixupOrCutMix
from cnnjax.data.augment.noise import Blur, Cutout, GaussianNoise, RandomErasing, SaltAndPepper, Speckle
from cnnjax.data.augment.operation import Operation
from cnnjax.data.augment.policies import AugMix, AutoAugment, RandAugment, TrivialAugment

__all__ = [
    "OPERATIONS",
    "AugMix",
    "AutoAugment",
    "Background",
    "Blur",
    "Brightness",
    "ChannelShuffle",
    "Contrast",
    "Crop",
    "CutMix",
    "Cutout",
    "Elastic",
    "Gamma",
    "GaussianNoise",
    "Grey",
    "Hue",
    "Mirror",
    "Mixup",
    "MixupOrCutMix",
    "Operation",
    "RandAugment",
    "RandomErasing",
    "Rotate",
    "SaltAndPepper",
    "Saturation",
    "Sharpness",
    "Shear",
    "Speckle",
    "Translate",
    "TrivialAugment",
    "VerticalMirror",
    "Zoom",
    "augment",
    "needs_turns",
    "parse",
    "parse_all",
]
