"""What happens to single images on the host: crop and resize, as torchvision and timm define them.

Every resize is antialiased: the kernel (a triangle for ``bilinear``, Keys' cubic with a = -0.5 for ``bicubic``) widens
with the reduction. cykooz-resizer does it where it is installed, four times as fast as Pillow, whose values it gives to
one level of 255 (bicubic: to a few where contrast is highest).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import threading
from typing import Literal, get_args

import numpy as np
from PIL import Image

from cnnjax.data.source import DataError

try:
    import cykooz_resizer
except ModuleNotFoundError:
    cykooz_resizer = None

Interpolation = Literal["bilinear", "bicubic"]
# auto: cykooz where it is installed, else pillow.
ResizerName = Literal["auto", "pillow", "cykooz"]
# Shorter side of an image before its centre is taken, over the side of that centre.
RESIZE_RATIO = 256 / 224
_local = threading.local()


def resizer(name: ResizerName = "auto") -> str:
    """Return the library that resizes, and its version: images of two differ by a level here and there.

    Raises:
      DataError: it is not installed.
    """
    if name == "cykooz" and cykooz_resizer is None:
        raise DataError('resizer cykooz needs the package cykooz-resizer: pip install "cnnjax[fast]"; or take pillow')
    package = "pillow" if name == "pillow" or cykooz_resizer is None else "cykooz-resizer"
    return f"{package} {importlib.metadata.version(package)}"


def resize(
    pixels: np.ndarray,
    height: int,
    width: int,
    interpolation: Interpolation = "bilinear",
    resizer: ResizerName = "auto",
) -> np.ndarray:
    """Resize uint8[h, w, channels] to [height, width, channels], antialiased; what has that size stays as it is.

    Raises:
      DataError: an unknown interpolation.
    """
    if interpolation not in get_args(Interpolation):
        raise DataError(f"interpolation must be one of {', '.join(get_args(Interpolation))}, got {interpolation!r}")
    channels = pixels.shape[-1]
    if pixels.shape[:2] == (height, width):
        return pixels
    if channels not in (1, 3):
        return np.concatenate(
            [resize(pixels[..., c : c + 1], height, width, interpolation, resizer) for c in range(channels)], axis=-1
        )
    if cykooz_resizer is not None and resizer != "pillow":
        return _resize_fast(pixels, height, width, interpolation)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling[interpolation.upper()]))
    return resized.reshape(height, width, channels)


def _resize_fast(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    if not hasattr(_local, "resizer"):
        # Its buffers are one thread's.
        _local.resizer = cykooz_resizer.Resizer()
        kernels = {
            "bilinear": cykooz_resizer.FilterType.bilinear,
            "bicubic": cykooz_resizer.FilterType.catmull_rom,
        }
        _local.options = {
            name: cykooz_resizer.ResizeOptions(cykooz_resizer.ResizeAlg.convolution(kernel), use_alpha=False)
            for name, kernel in kernels.items()
        }
    channels = pixels.shape[-1]
    kind = cykooz_resizer.PixelType.U8 if channels == 1 else cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
    target = cykooz_resizer.ImageData(width, height, kind)
    _local.resizer.resize(source, target, _local.options[interpolation])
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, channels)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Crop a random region and resize it.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6; differs: after ten regions that do not fit, the largest
    centred one of legal ratio is taken, as in torchvision.

    Attributes:
      size: height and width of the result, pixels.
      interpolation: of the resize.
      scale: least and greatest share of the image's area.
      ratio: least and greatest width over height.
      resizer: the library.
    """

    size: int
    interpolation: Interpolation = "bilinear"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resizer: ResizerName = "auto"

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Map uint8[h, w, channels] to uint8[size, size, channels]."""
        top, left, height, width = self.region(pixels.shape[0], pixels.shape[1], generator)
        region = pixels[top : top + height, left : left + width]
        return resize(region, self.size, self.size, self.interpolation, self.resizer)

    def region(self, height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of the region."""
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(*log_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class ResizeShorterSide:
    """Resize an image, which keeps its ratio.

    Attributes:
      size: of the shorter side, pixels.
      interpolation: of the resize.
      resizer: the library.
    """

    size: int
    interpolation: Interpolation = "bilinear"
    resizer: ResizerName = "auto"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Map uint8[h, w, channels] to the same with a shorter side of ``size``."""
        shorter = min(pixels.shape[:2])
        # The longer side is cut off, not rounded.
        height, width = (self.size * side // shorter for side in pixels.shape[:2])
        return resize(pixels, height, width, self.interpolation, self.resizer)


@dataclasses.dataclass(frozen=True)
class ResizeAndCentreCrop:
    """Resize the shorter side and take the centre: how published networks are evaluated.

    Gives what torchvision's ``Resize`` and ``CenterCrop`` give, side lengths and rounding included.

    Attributes:
      resize_size: of the shorter side, pixels.
      crop_size: height and width of the centre, pixels.
      interpolation: of the resize.
      resizer: the library.
    Raises:
      DataError: ``resize_size`` is less than ``crop_size``.
    """

    resize_size: int
    crop_size: int
    interpolation: Interpolation = "bilinear"
    resizer: ResizerName = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize_size:
            raise DataError(f"resize_size must be at least crop_size ({self.crop_size}), got {self.resize_size}")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Map uint8[h, w, channels] to uint8[crop_size, crop_size, channels]."""
        pixels = ResizeShorterSide(self.resize_size, self.interpolation, self.resizer)(pixels)
        height, width = pixels.shape[:2]
        top, left = round((height - self.crop_size) / 2), round((width - self.crop_size) / 2)
        return pixels[top : top + self.crop_size, left : left + self.crop_size]


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Resize the whole image, whatever its ratio.

    Attributes:
      size: height and width of the result, pixels.
      interpolation: of the resize.
      resizer: the library.
    """

    size: int
    interpolation: Interpolation = "bilinear"
    resizer: ResizerName = "auto"

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        """Map uint8[h, w, channels] to uint8[size, size, channels]; nothing is drawn."""
        return resize(pixels, self.size, self.size, self.interpolation, self.resizer)
