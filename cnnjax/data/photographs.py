"""Photographs that need no download: those that come with scikit-image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnjax.data.source import DataError

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "motorcycle",
    "retina",
    "rocket",
)


def load_photograph(name: str) -> np.ndarray:
    """Return a photograph of scikit-image's: uint8[height, width, 1] (grey) or [height, width, 3].

    ``camera`` is the lectures' cameraman, 512x512 grey; ``motorcycle`` is the left picture of the pair.

    Args:
      name: one of ``PHOTOGRAPHS``.
    Raises:
      DataError: another name, or scikit-image is not installed.
    """
    if name not in PHOTOGRAPHS:
        raise DataError(f"unknown photograph {name!r}; there are {', '.join(PHOTOGRAPHS)}")
    try:
        from skimage import data
    except ModuleNotFoundError as error:
        raise DataError(
            f"the photograph {name!r} comes with scikit-image, which is not installed: pip install 'cnnjax[photos]'"
        ) from error
    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Return an image file as uint8[height, width, 1] where it is grey, else [height, width, 3].

    Transparency is dropped; 16-bit grey is scaled to 8 bits.

    Raises:
      DataError: no such file, or none that Pillow reads.
    """
    try:
        with Image.open(Path(path)) as image:
            if image.mode.startswith("I;16"):
                return (np.asarray(image) // 257).astype(np.uint8)[..., None]
            grey = image.mode in ("1", "L", "LA")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except UnidentifiedImageError as error:
        raise DataError(f"{str(path)!r} is not an image that Pillow reads; give a PNG or JPEG file") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    return pixels[..., None] if grey else pixels


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Return uint8[height, width, 1] with the luminance (ITU-R 601-2) of uint8[height, width, 1 or 3]."""
    return pixels if pixels.shape[-1] == 1 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
