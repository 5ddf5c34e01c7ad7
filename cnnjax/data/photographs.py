"""Photographs that need no download: those that come with scikit-image."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnnjax.buckets import fetch
from cnnjax.data.decode import read_image
from cnnjax.data.source import DataError
from cnnjax.places import local_path

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


# Training and test photographs; `camera` is the lectures' cameraman.
TRAIN = (
    "brick", "cat", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "motorcycle", "retina", "rocket",
)  # fmt: skip
TEST = ("camera", "astronaut", "coffee", "coins")
# Every fifth of a folder's images is held out.
TEST_EVERY = 5
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

Photographs = dict[str, np.ndarray]


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


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Return uint8[height, width, 1] with the luminance (ITU-R 601-2) of uint8[height, width, 1 or 3]."""
    return pixels if pixels.shape[-1] == 1 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def split_photographs(
    channels: int, folder: str | os.PathLike[str] | None = None, *, min_size: int = 1
) -> tuple[Photographs, Photographs]:
    """Return the photographs to train on and those held out, by name: uint8[height, width, channels] each.

    Args:
      channels: 1 makes colours grey; 3 leaves grey photographs out.
      folder: of image files, every fifth of which is held out; None: scikit-image's, ``TRAIN`` and ``TEST``.
      min_size: pixels that height and width must have.
    Raises:
      DataError: no such folder, an image file that cannot be used, too few or too small images.
    """
    everything: list[Photographs]
    if folder is None:
        everything = [{name: load_photograph(name) for name in names} for names in (TRAIN, TEST)]
    else:
        folder = fetch(local_path(folder, "folder of photographs", buckets=True))
        if not folder.is_dir():
            raise DataError(f"{str(folder)!r} is not a folder; give a folder of image files")
        files = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in IMAGE_FILES and not path.name.startswith(".")
        )
        everything = [{}, {}]
        for index, path in enumerate(files):
            everything[index % TEST_EVERY == TEST_EVERY - 1][path.stem] = read_image(path)
    train, test = (
        {
            name: to_grey(pixels) if channels == 1 else pixels
            for name, pixels in images.items()
            if channels == 1 or pixels.shape[-1] == channels
        }
        for images in everything
    )
    for name, images in (("train on", train), ("hold out", test)):
        if not images:
            raise DataError(
                f"there is no image of {channels} channels to {name}; a folder needs {TEST_EVERY} image files or more"
            )
        small = [key for key, pixels in images.items() if min(pixels.shape[:2]) < min_size]
        if small:
            raise DataError(
                f"image {small[0]!r} of {images[small[0]].shape[:2]} pixels is smaller than {min_size} pixels; take "
                "smaller parts of it, or leave it out"
            )
    return train, test


def rescale(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Resize uint8[height, width, 1 or 3] by a factor, bicubic and antialiased."""
    if scale == 1:
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC)).reshape(size[1], size[0], pixels.shape[-1])


def random_patch(images: Sequence[np.ndarray], size: int, generator: np.random.Generator) -> np.ndarray:
    """Return a part of an image, [size, size, channels], turned by a multiple of 90 degrees and mirrored at random.

    Args:
      images: [height, width, channels] each, at least ``size`` pixels; larger ones are taken more often.
      size: pixels.
      generator: of all draws.
    """
    shares = np.array([image.shape[0] * image.shape[1] for image in images], np.float64)
    image = images[generator.choice(len(images), p=shares / shares.sum())]
    top, left = (int(generator.integers(0, length - size + 1)) for length in image.shape[:2])
    patch = np.rot90(image[top : top + size, left : left + size], int(generator.integers(4)))
    return patch[:, ::-1] if generator.integers(2) else patch


def grid_patches(pixels: np.ndarray, size: int, count: int) -> np.ndarray:
    """Return ``count`` parts spread evenly over an image, [count, size, size, channels]; ``count`` is a square."""
    side = math.isqrt(count)
    tops, lefts = (np.linspace(0, length - size, side).astype(int) for length in pixels.shape[:2])
    return np.stack([pixels[top : top + size, left : left + size] for top in tops for left in lefts])
