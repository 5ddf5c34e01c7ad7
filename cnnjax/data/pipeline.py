"""From examples to batches: a Grain pipeline whose order depends on the seed and the step, and on nothing else.

A training run reads one endless stream: epoch after epoch, each a fresh permutation of the data set. Batch ``i`` is
positions ``i * batch_size`` to ``(i + 1) * batch_size`` of that stream, so every batch is full and an epoch may end
inside one. Because batches are addressed by number, the iterator's state is that number, whatever reads ahead of it.

Batch sizes are those of all processes together. A process reads its shard ``(index, count)``: the ``index``-th of
``count`` equal contiguous parts of every batch. Batches, order and position are the same whatever the count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import grain
import numpy as np

from cnnjax.data.source import (
    DEFAULT_MEMORY_BUDGET,
    ArraySplit,
    DataError,
    ExampleSource,
    ImageDataset,
    resize,
    to_memory,
)

Batch = dict[str, np.ndarray]
Shard = tuple[int, int]
WHOLE: Shard = (0, 1)
RESIZE_RATIO = 256 / 224


@dataclasses.dataclass(frozen=True)
class BatchStream:
    """Random access to the training batches of a run (a Grain data source).

    Attributes:
      source: the training split.
      batch_size: examples a batch, over all processes and devices.
      num_batches: length of the run.
      seed: of the order, and of what ``transform`` draws.
      transform: maps (uint8[h, w, channels], generator) to an image of the size that the network gets; None where
        all images have it already.
      shard: which part of every batch, and of how many, is read: (index, count).
    """

    source: ExampleSource
    batch_size: int
    num_batches: int
    seed: int
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= len(self.source):
            raise DataError(
                f"batch_size must be from 1 to {len(self.source)}, the number of training images, got {self.batch_size}"
            )
        check_shard(self.shard, self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        """Return the shard of batch ``index``: image uint8[batch, height, width, channels], label int32[batch]."""
        part, count = self.shard
        size = self.batch_size // count
        start = index * self.batch_size + part * size
        positions = np.arange(start, start + size)
        epochs, offsets = np.divmod(positions, len(self.source))
        first = int(epochs[0])
        order = _permutation(len(self.source), self.seed, first)[offsets]
        if epochs[-1] != first:
            later = _permutation(len(self.source), self.seed, first + 1)[offsets]
            order = np.where(epochs == first, order, later)
        images, labels = self.source.read(order)
        if self.transform is not None:
            images = np.stack(
                [
                    self.transform(image, _generator(self.seed, int(position), stream=1))
                    for image, position in zip(images, positions, strict=True)
                ]
            )
        return {"image": np.asarray(images), "label": labels}


def check_shard(shard: Shard, batch_size: int) -> None:
    """Raise DataError unless ``shard``, (index, count), is one of equal parts of a batch."""
    index, count = shard
    if not 0 <= index < count:
        raise DataError(f"shard must be (index, count) with 0 <= index < count, got {shard}")
    if batch_size % count:
        raise DataError(f"batch_size must be a multiple of {count}, the number of processes, got {batch_size}")


def _generator(seed: int, number: int, *, stream: int) -> np.random.Generator:
    """Return the generator of a number: of an epoch's order (stream 0) or of an example's crop (stream 1)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, number))))


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return _generator(seed, epoch, stream=0).permutation(size)


def random_resized_crop(size: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Return a function that crops a random region and resizes it to ``size`` pixels square.

    The region covers 8 to 100 % of the image, with a ratio of 3/4 to 4/3.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6; differs: after ten regions that do not fit, the largest
    centred one of legal ratio is taken, as in torchvision.
    """

    def crop(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        height, width = pixels.shape[:2]
        for _ in range(10):
            area = height * width * generator.uniform(0.08, 1.0)
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
                return resize(pixels[top : top + h, left : left + w], size, size)
        ratio = min(max(width / height, 3 / 4), 4 / 3)
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        top, left = (height - h) // 2, (width - w) // 2
        return resize(pixels[top : top + h, left : left + w], size, size)

    return crop


def resize_and_centre_crop(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that resizes the shorter side to 8/7 of ``size`` and crops ``size`` pixels square."""

    def crop(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        scale = round(size * RESIZE_RATIO) / min(height, width)
        pixels = resize(pixels, max(size, round(height * scale)), max(size, round(width * scale)))
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        return pixels[top : top + size, left : left + size]

    return crop


@dataclasses.dataclass(frozen=True)
class DataPipeline:
    """A data set made ready for a network: its size, what it is normalised with, and its batches.

    Attributes:
      dataset: where the examples come from.
      image_size: height and width that the network gets, pixels.
      train, test: splits, in memory if they fit.
      train_transform, test_transform: what images that differ in size go through on the host.
    """

    dataset: ImageDataset
    image_size: int
    train: ExampleSource
    test: ExampleSource
    train_transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    test_transform: Callable[[np.ndarray], np.ndarray] | None = None

    @classmethod
    def create(cls, dataset: ImageDataset, image_size: int, memory_budget: int = DEFAULT_MEMORY_BUDGET) -> DataPipeline:
        """Prepare ``dataset`` for square images of ``image_size`` pixels.

        Sets of equally large images are resized; where sizes differ, training takes a random resized crop and testing a
        centre crop. Sets of equally large images that take at most ``memory_budget`` bytes are decoded here, once.
        """
        height, width, channels = dataset.image_shape
        if height is None or width is None:
            return cls(
                dataset,
                image_size,
                dataset.train,
                dataset.test,
                random_resized_crop(image_size),
                resize_and_centre_crop(image_size),
            )
        needed = (len(dataset.train) + len(dataset.test)) * image_size**2 * channels
        if needed <= memory_budget:
            train = to_memory(dataset.train, image_size, image_size)
            return cls(dataset, image_size, train, to_memory(dataset.test, image_size, image_size))

        def resized(pixels: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
            return resize(pixels, image_size, image_size)

        return cls(dataset, image_size, dataset.train, dataset.test, resized, resized)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation a channel of the training images, pixels in [0, 1].

        None for data sets that are not in memory.
        """
        if not isinstance(self.train, ArraySplit):
            return None
        # Counts of the 256 values are exact, whatever the number of images.
        channels = self.train.images.shape[-1]
        counts = np.stack(
            [np.bincount(self.train.images[..., channel].ravel(), minlength=256) for channel in range(channels)]
        )
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1))
        return tuple(round(float(value), 6) for value in mean), tuple(round(float(value), 6) for value in std)

    def train_batches(
        self, batch_size: int, num_batches: int, seed: int, shard: Shard = WHOLE
    ) -> grain.DatasetIterator:
        """Return an iterator over training batches; ``get_state`` and ``set_state`` hold its exact position.

        Args:
          batch_size: examples a batch, over all processes.
          num_batches: length of the run.
          seed: of the order, and of what is drawn on the host.
          shard: (index, count) of this process and all processes: it gets the ``index``-th of ``count`` equal
            contiguous parts of every batch. The position is the same whatever the count.
        Raises:
          DataError: more examples a batch than there are, or ``count`` does not divide ``batch_size``.
        """
        stream = BatchStream(self.train, batch_size, num_batches, seed, self.train_transform, shard)
        return iter(grain.MapDataset.source(stream).to_iter_dataset(self._read_options()))

    def test_batches(self, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield every test example once, in order; the last batch is padded, and ``mask`` is 0 on the padding.

        Args:
          batch_size: examples a batch, over all processes.
          shard: as in `train_batches`; each process gets the same number of batches, its last ones all padding where
            the examples do not reach.
        Raises:
          DataError: ``count`` does not divide ``batch_size``.
        """
        batches = EvaluationBatches(self.test, batch_size, self.test_transform, shard)
        return iter(grain.MapDataset.source(batches).to_iter_dataset(self._read_options()))

    def _read_options(self) -> grain.ReadOptions:
        # Batches from memory cost less than handing them from thread to thread.
        if isinstance(self.train, ArraySplit):
            return grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return grain.ReadOptions(num_threads=16, prefetch_buffer_size=16)


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Random access to the batches of one pass over a split (a Grain data source).

    Attributes:
      source: the split.
      batch_size: examples a batch, over all processes.
      transform: maps uint8[h, w, channels] to an image of the size that the network gets.
      shard: which part of every batch, and of how many, is read: (index, count).
    """

    source: ExampleSource
    batch_size: int
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        check_shard(self.shard, self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        """Return the shard of batch ``index``: image, label, and mask bool[batch]."""
        part, count = self.shard
        size = self.batch_size // count
        start = index * self.batch_size + part * size
        mask = np.arange(start, start + size) < len(self.source)
        # A part without examples borrows one for its shape, and masks it.
        indices = np.minimum(np.arange(start, start + max(mask.sum(), 1)), len(self.source) - 1)
        images: Any
        images, labels = self.source.read(indices)
        if self.transform is not None:
            images = np.stack([self.transform(image) for image in images])
        images = np.asarray(images)
        missing = size - len(indices)
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        return {"image": images, "label": np.pad(labels, (0, missing)), "mask": mask}
