"""Harder sets that are made of a simple one, and photographs that need no download."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from cnnjax.claims.fitting import Arrays
from cnnjax.data.scenes import Scenes

# Photographs that scikit-learn brings: one to train on, one to test on.
TRAIN_PHOTOGRAPH, TEST_PHOTOGRAPH = "china.jpg", "flower.jpg"


def sample_photograph(name: str) -> np.ndarray:
    """Return a photograph of scikit-learn's, uint8[427, 640, 3]."""
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(name))


def framed(data: Arrays, name: str, size: int, place: Callable[[int, int], tuple[int, int]]) -> Arrays:
    """Return the images in larger black frames.

    Args:
      data: images of one size.
      name: of the new set.
      size: height and width of the frames, pixels.
      place: from the room in height and width that is left to the image's top and left.
    """

    def frames(images: np.ndarray) -> np.ndarray:
        _, height, width, channels = images.shape
        found = np.zeros((len(images), size, size, channels), np.float32)
        for frame, image in zip(found, images, strict=True):
            top, left = place(size - height, size - width)
            frame[top : top + height, left : left + width] = image
        return found

    train, test = frames(data.train_images), frames(data.test_images)
    return dataclasses.replace(data, name=name, train_images=train, test_images=test)


def centred(data: Arrays, size: int) -> Arrays:
    """Return the images in the middle of black frames of ``size`` pixels."""
    return framed(data, data.name, size, lambda height, width: (height // 2, width // 2))


def shifted(data: Arrays, size: int) -> Arrays:
    """Return the images at places of black frames that are drawn at random, always the same ones."""
    generator = np.random.default_rng(0)

    def place(height: int, width: int) -> tuple[int, int]:
        return int(generator.integers(height + 1)), int(generator.integers(width + 1))

    return framed(data, f"shifted {data.name}", size, place)


def composed(data: Arrays, size: int) -> Arrays:
    """Return scenes: each image, in a colour, somewhere on a part of a photograph.

    Training scenes lie on one photograph, test scenes on another.

    Args:
      data: grey images, bright on black.
      size: height and width of the scenes, pixels.
    """

    return Arrays(
        f"scenes of {data.name}",
        scenes(data.train_images, data.train_labels, TRAIN_PHOTOGRAPH, size)[0],
        data.train_labels,
        scenes(data.test_images, data.test_labels, TEST_PHOTOGRAPH, size)[0],
        data.test_labels,
    )


def composed_centres(data: Arrays, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the things on the training and test scenes of `composed`; no image may be all black.

    Returns:
      float32[examples, 2] each: row and column, pixels.
    """

    def centres(covered: np.ndarray) -> np.ndarray:
        return np.stack([np.argwhere(each).mean(0) for each in covered]).astype(np.float32)

    return (
        centres(scenes(data.train_images, data.train_labels, TRAIN_PHOTOGRAPH, size)[1]),
        centres(scenes(data.test_images, data.test_labels, TEST_PHOTOGRAPH, size)[1]),
    )


def scenes(images: np.ndarray, labels: np.ndarray, photograph: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scenes, float32[examples, size, size, 3], and where things cover them, bool[examples, size, size]."""
    generator = np.random.default_rng(0)
    background = sample_photograph(photograph)
    found = np.empty((len(images), size, size, 3), np.float32)
    covered = np.empty((len(images), size, size), bool)
    for scene, cover, image, label in zip(found, covered, images, labels, strict=True):
        things = np.round(255 * image[None]).astype(np.uint8)
        drawn = Scenes(things, label[None], (background,), size, most=1).draw(generator)
        scene[:] = drawn["image"] / 255
        cover[:] = drawn["label"]
    return found, covered
