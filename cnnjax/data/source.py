"""What a data set is: splits with random access, whatever they are read from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Task = Literal["classification", "multilabel", "regression"]


class DataError(ValueError):
    """A data set that cannot be used, and what to do about it."""


class ExampleSource(Protocol):
    """A split with random access."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def read(self, indices: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images (uint8[height, width, channels] each) and labels of ``indices``.

        Images may be made as late as they are taken (`Images`): take each once.

        Labels are int32[examples] (classification), or float32[examples, outputs]: 0 or 1 per class (multilabel), or
        numbers (regression).
        """


class Images(Sequence[np.ndarray]):
    """Images that are made when they are asked for, so that a batch of large ones is never in memory whole.

    Args:
      make: returns image ``i`` of ``count``.
      count: how many there are.
    """

    def __init__(self, make: Callable[[int], np.ndarray], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Make image ``index``."""
        return self._make(range(self._count)[index])


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """A set of images and what is known about it.

    Attributes:
      name, version: as TFDS names it; sets of files have a fingerprint for a version.
      train, test: its splits.
      label_names: one name per class; for regression, one per number.
      image_shape: height, width and channels; height and width are None where images differ in size.
      task: what labels are, see `ExampleSource`.
      skipped: path of each image that was left out, and why.
    """

    name: str
    version: str
    train: ExampleSource
    test: ExampleSource
    label_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    task: Task = "classification"
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, or of numbers to regress."""
        return len(self.label_names)

    def first(self, train_examples: int | None = None, test_examples: int | None = None) -> ImageDataset:
        """Return the data set with only the first examples of its splits (they lie shuffled in every set).

        Args:
          train_examples, test_examples: how many; None for all.
        Raises:
          DataError: fewer than 1, or more than there are.
        """
        return dataclasses.replace(
            self,
            train=_first(self.train, train_examples, "train_examples"),
            test=_first(self.test, test_examples, "test_examples"),
        )


def _first(source: ExampleSource, count: int | None, name: str) -> ExampleSource:
    if count is None:
        return source
    if not 1 <= count <= len(source):
        raise DataError(f"{name} must be from 1 to {len(source)}, the number of images there are, got {count}")
    return Section(source, 0, count)


@dataclasses.dataclass(frozen=True)
class Section:
    """The examples of ``source`` from ``start`` to before ``stop``."""

    source: ExampleSource
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, indices: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images and labels of ``indices``, see `ExampleSource`."""
        return self.source.read(np.asarray(indices) + self.start)


@dataclasses.dataclass(frozen=True)
class Selection:
    """The examples of ``source`` at ``kept``, in that order."""

    source: ExampleSource
    kept: np.ndarray

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, indices: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images and labels of ``indices``, see `ExampleSource`."""
        return self.source.read(self.kept[indices])


@dataclasses.dataclass(frozen=True)
class Joined:
    """The examples of several sources, one after the other."""

    sources: Sequence[ExampleSource]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def read(self, indices: np.ndarray) -> tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images and labels of ``indices``, see `ExampleSource`."""
        indices = np.asarray(indices)
        images: list[np.ndarray] = [np.empty(0)] * len(indices)
        labels: list[np.ndarray] = [np.empty(0)] * len(indices)
        start = 0
        for source in self.sources:
            (positions,) = np.nonzero((start <= indices) & (indices < start + len(source)))
            if len(positions):
                for position, image, label in zip(positions, *source.read(indices[positions] - start), strict=True):
                    images[position], labels[position] = image, label
            start += len(source)
        return images, np.stack(labels)


@runtime_checkable
class Named(Protocol):
    """A split whose examples are files."""

    @property
    def paths(self) -> Sequence[str]:
        """Path of each example's file."""


def example_name(source: ExampleSource, index: int) -> str:
    """Return what to call an example: the path of its file, or else "number 7", from 0."""
    if isinstance(source, Section):
        return example_name(source.source, source.start + index)
    if isinstance(source, Selection):
        return example_name(source.source, int(source.kept[index]))
    if isinstance(source, Named):
        return repr(source.paths[index])
    if isinstance(source, Joined):
        for part in source.sources:
            if index < len(part):
                return example_name(part, index)
            index -= len(part)
    return f"number {index}"


class ArraySplit:
    """A split that lies decoded in memory.

    Attributes:
      images: uint8[examples, height, width, channels].
      labels: int32[examples] or float32[examples, outputs].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        if len(images) != len(labels):
            raise DataError(f"there are {len(images)} images but {len(labels)} labels")
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of ``indices``, see `ExampleSource`."""
        return self.images[indices], self.labels[indices]


def fingerprint(source: ExampleSource, count: int = 16) -> str:
    """Return a checksum of the pixels and labels of a few examples, evenly spread over a split.

    Two copies of a set that differ in their order or in many of their examples have different ones.

    Args:
      source: the split.
      count: examples to read at most.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int))
    images, labels = source.read(chosen)
    digest = hashlib.sha256(np.asarray(labels).tobytes())
    for image in images:
        digest.update(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:12]


def to_memory(source: ExampleSource, transform: Callable[[np.ndarray], np.ndarray], batch: int = 1024) -> ArraySplit:
    """Read a whole split once.

    Args:
      source: the split.
      transform: makes all images equally large.
      batch: images read at a time.
    """
    images: np.ndarray | None = None
    labels = []
    for start in range(0, len(source), batch):
        pixels, label = source.read(np.arange(start, min(start + batch, len(source))))
        made = np.stack([transform(image) for image in pixels])
        if images is None:
            images = np.empty((len(source), *made.shape[1:]), made.dtype)
        images[start : start + len(made)] = made
        labels.append(label)
    assert images is not None, "an empty split"
    return ArraySplit(images, np.concatenate(labels))
