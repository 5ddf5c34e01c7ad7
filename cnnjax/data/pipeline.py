"""From examples to batches: a Grain pipeline whose order depends on the seed and the step, and on nothing else.

A training run reads one endless stream: epoch after epoch, each a fresh permutation of the data set. Batch ``i`` is
positions ``i * batch_size`` to ``(i + 1) * batch_size`` of that stream, so every batch is full and an epoch may end
inside one. Because batches are addressed by number, the iterator's state is that number, whatever reads ahead of it.

Batch sizes are those of all processes together. A process reads its shard ``(index, count)``: the ``index``-th of
``count`` equal contiguous parts of every batch. Batches, order and position are the same whatever the count.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import grain
import numpy as np
from absl import flags

from cnnjax.data.source import ArraySplit, DataError, ExampleSource, ImageDataset, to_memory
from cnnjax.data.statistics import statistics
from cnnjax.data.transforms import (
    RESIZE_RATIO,
    Interpolation,
    RandomResizedCrop,
    ResizeAndCentreCrop,
    ResizerName,
    Stretch,
)

Batch = dict[str, np.ndarray]
Shard = tuple[int, int]
WHOLE: Shard = (0, 1)
# Bytes of decoded images, all splits together, up to which a data set is kept in memory.
DEFAULT_MEMORY_BUDGET = 2 << 30
# Each holds a batch.
MAX_THREADS = 16


@dataclasses.dataclass(frozen=True)
class BatchStream:
    """Random access to the training batches of a run (a Grain data source).

    Attributes:
      source: the training split.
      batch_size: examples per batch, over all processes and devices.
      num_batches: length of the run.
      seed: of the order, and of what ``transform`` draws.
      transform: maps (uint8[h, w, channels], generator) to an image of the size that the network gets; None where
        all images have it already.
      shard: which part of every batch, and of how many, is read: (index, count).
      label_key: what the labels are called in a batch.
      turns: batches also have ``turn`` int32[batch]: the number of the epoch, and 1 more for a random half of the
        examples, always the same. An alternating augmentation goes by whether it is odd.
    """

    source: ExampleSource
    batch_size: int
    num_batches: int
    seed: int
    transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    shard: Shard = WHOLE
    label_key: str = "label"
    turns: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.batch_size <= len(self.source):
            raise DataError(
                f"batch_size must be from 1 to {len(self.source)}, the number of training images, got {self.batch_size}"
            )
        check_shard(self.shard, self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        """Return the shard of batch ``index``: image uint8[batch, height, width, channels], and its labels."""
        positions, order = self.order(index)
        images, labels = self.source.read(order)
        if self.transform is not None:
            made = (
                self.transform(image, _generator(self.seed, int(position), stream=1))
                for image, position in zip(images, positions, strict=True)
            )
            images = _batch(made, len(order))
        return {"image": np.asarray(images), self.label_key: labels} | self.turns_of(positions, order)

    def turns_of(self, positions: np.ndarray, order: np.ndarray) -> Batch:
        """Return ``turn`` of examples, as `order` gives them, if batches have it."""
        if not self.turns:
            return {}
        epochs = positions // len(self.source)
        return {"turn": (epochs + _coins(len(self.source), self.seed)[order]).astype(np.int32)}

    def order(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples of the shard of batch ``index``: positions in the stream, and places in ``source``."""
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
        return positions, order


def _batch(images: Iterator[np.ndarray], size: int) -> np.ndarray:
    """Return equally large images as one array, zero where there are fewer than ``size``, one at a time in memory."""
    first = next(images)
    batch = np.zeros((size, *first.shape), first.dtype)
    batch[0] = first
    for index, image in enumerate(images, start=1):
        batch[index] = image
    return batch


def check_shard(shard: Shard, batch_size: int) -> None:
    """Raise DataError unless ``shard``, (index, count), is one of equal parts of a batch."""
    index, count = shard
    if not 0 <= index < count:
        raise DataError(f"shard must be (index, count) with 0 <= index < count, got {shard}")
    if batch_size % count:
        raise DataError(f"batch_size must be a multiple of {count}, the number of processes, got {batch_size}")


def _generator(seed: int, number: int, *, stream: int) -> np.random.Generator:
    """Return the generator of a number: of an epoch's order (stream 0), an example's crop (1) or all coins (2)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, stream, number))))


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return _generator(seed, epoch, stream=0).permutation(size)


@lru_cache(maxsize=1)
def _coins(size: int, seed: int) -> np.ndarray:
    """Return 0 or 1 for each example."""
    return _generator(seed, 0, stream=2).integers(0, 2, size)


@dataclasses.dataclass(frozen=True)
class DataPipeline:
    """A data set made ready for a network: its size, what it is normalised with, and its batches.

    Attributes:
      dataset: where the examples come from.
      image_size: height and width that the network gets, pixels.
      train, test: splits, in memory if they fit.
      train_transform, test_transform: what is done on the host to images that differ in size.
      workers: processes that read and decode training images; 0 for threads of this one.
      turns: training batches also have ``turn``, see `BatchStream`.
    """

    dataset: ImageDataset
    image_size: int
    train: ExampleSource
    test: ExampleSource
    train_transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None
    test_transform: Callable[[np.ndarray], np.ndarray] | None = None
    workers: int = 0
    turns: bool = False

    @classmethod
    def create(
        cls,
        dataset: ImageDataset,
        image_size: int,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
        *,
        test_transform: Callable[[np.ndarray], np.ndarray] | None = None,
        interpolation: Interpolation = "bilinear",
        workers: int = 0,
        resizer: ResizerName = "auto",
    ) -> DataPipeline:
        """Prepare ``dataset`` for square images of ``image_size`` pixels.

        Images of equally large images' sets are stretched to the size; where sizes differ, training takes a random
        resized crop, and testing the centre of the resized image. Sets of equally large images that take at most
        ``memory_budget`` bytes are decoded here, once.

        Args:
          dataset: the set.
          image_size: height and width that the network gets, pixels.
          memory_budget: bytes.
          test_transform: what images that differ in size go through for testing; None for the centre of an image whose
            shorter side is 8/7 of ``image_size``.
          interpolation: of every other resize.
          workers: processes that read and decode training images; 0 for threads of this one.
          resizer: library of every resize.
        """
        height, width, channels = dataset.image_shape
        stretch = Stretch(image_size, interpolation, resizer)
        if height is None or width is None:
            crop = RandomResizedCrop(image_size, interpolation, resizer=resizer)
            if test_transform is None:
                whole = round(image_size * RESIZE_RATIO)
                test_transform = ResizeAndCentreCrop(whole, image_size, interpolation, resizer)
            return cls(dataset, image_size, dataset.train, dataset.test, crop, test_transform, workers)
        needed = (len(dataset.train) + len(dataset.test)) * image_size**2 * channels
        if needed <= memory_budget:
            train, test = (to_memory(source, stretch) for source in (dataset.train, dataset.test))
            return cls(dataset, image_size, train, test, workers=workers)
        return cls(dataset, image_size, dataset.train, dataset.test, stretch, stretch, workers)

    @property
    def resizes(self) -> bool:
        """Whether any image has another size than the network gets."""
        return self.dataset.image_shape[:2] != (self.image_size, self.image_size)

    def statistics(self, measure: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return mean and standard deviation per channel of the training images, for pixels in [0, 1].

        The standard deviation of a constant channel is given as 1, so that it can be divided by.

        Args:
          measure: read a split that is not in memory for it, all of it, as it is read in evaluation; else there are
            none for such a split.
        """
        if not measure and not isinstance(self.train, ArraySplit):
            return None
        found = statistics(self.train, self.test_transform)
        return found.mean, tuple(std or 1.0 for std in found.std)

    @property
    def label_key(self) -> str:
        """What the labels are called in a batch: ``target`` for numbers to regress, else ``label``."""
        return "target" if self.dataset.task == "regression" else "label"

    def train_batches(self, batch_size: int, num_batches: int, seed: int, shard: Shard = WHOLE) -> BatchIterator:
        """Return an iterator over training batches; ``get_state`` and ``set_state`` hold its exact position.

        Args:
          batch_size: examples per batch, over all processes.
          num_batches: length of the run.
          seed: of the order, and of what is drawn on the host.
          shard: (index, count) of this process and all processes: it gets the ``index``-th of ``count`` equal
            contiguous parts of every batch. The position is the same whatever the count.
        Raises:
          DataError: more examples per batch than there are, or ``count`` does not divide ``batch_size``.
        """
        transform = self.train_transform
        stream = BatchStream(
            self.train, batch_size, num_batches, seed, transform, shard, self.label_key, turns=self.turns
        )
        return BatchIterator(stream, self._readers(self.train), self.workers)

    def test_batches(self, batch_size: int, shard: Shard = WHOLE) -> BatchIterator:
        """Return an iterator over every test example once, in order.

        The last batch is padded, and ``mask`` is 0 on the padding.

        Args:
          batch_size: examples per batch, over all processes.
          shard: as in `train_batches`; each process gets the same number of batches, its last ones all padding where
            the examples do not reach.
        Raises:
          DataError: ``count`` does not divide ``batch_size``.
        """
        batches = EvaluationBatches(self.test, batch_size, self.test_transform, shard, self.label_key)
        # By threads: processes would start anew for every evaluation, and take seconds for that.
        return BatchIterator(batches, self._readers(self.test))

    def _readers(self, source: ExampleSource) -> int:
        """Return the number of threads: none for memory, where a batch costs less than handing it over."""
        in_memory = isinstance(source, ArraySplit) and self.train_transform is None
        return 0 if in_memory else min(os.cpu_count() or 1, MAX_THREADS)


class BatchIterator:
    """Numbered batches one after the other, read ahead by threads or processes (of Grain).

    Args:
      batches: random access to them.
      threads: that read ahead, one batch each; 0 reads each batch when it is asked for.
      workers: processes that read ahead instead of threads, if ``threads`` is not 0.
    """

    def __init__(self, batches: BatchStream | EvaluationBatches, threads: int, workers: int = 0) -> None:
        self._batches = batches
        self._threads = threads
        self._workers = workers if threads else 0
        self._next = 0
        # Made when the first batch is asked for: the position may change before.
        self._reader: grain.DatasetIterator | None = None

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        if self._next >= len(self._batches):
            raise StopIteration
        if self._threads == 0:
            batch = self._batches[self._next]
        else:
            if self._reader is None:
                self._reader = self._read_from(self._next)
            batch = next(self._reader)
            if self._workers:
                # Out of the memory shared with the workers, which is to be given back before this process ends.
                batch = {name: np.array(array) for name, array in batch.items()}
        self._next += 1
        if self._next == len(self._batches):
            self.close()
        return batch

    def __len__(self) -> int:
        return len(self._batches)

    def get_state(self) -> dict[str, int]:
        """Return the position: the number of the next batch, and that of the examples it was counted among."""
        return {"next_index": self._next, "examples": len(self._batches.source)}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go to a position.

        Raises:
          DataError: it is one among another number of examples.
        """
        examples = len(self._batches.source)
        if state.get("examples", examples) != examples:
            raise DataError(
                f"the position was saved when there were {state['examples']} examples, now there are {examples}; "
                "restore the data set, or start a run of its own"
            )
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Stop reading ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read_from(self, index: int) -> grain.DatasetIterator:
        batches = grain.MapDataset.source(self._batches)[index:]
        if self._workers == 0:
            options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
            return iter(batches.to_iter_dataset(options))
        # Grain reads flags of its own when it starts processes; a program without absl's command line never parsed any.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        processes = grain.MultiprocessingOptions(num_workers=self._workers)
        return iter(batches.to_iter_dataset(options).mp_prefetch(processes))


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Random access to the batches of one pass over a split (a Grain data source).

    Attributes:
      source: the split.
      batch_size: examples per batch, over all processes.
      transform: maps uint8[h, w, channels] to an image of the size that the network gets.
      shard: which part of every batch, and of how many, is read: (index, count).
      label_key: what the labels are called in a batch.
    """

    source: ExampleSource
    batch_size: int
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    shard: Shard = WHOLE
    label_key: str = "label"

    def __post_init__(self) -> None:
        check_shard(self.shard, self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        """Return the shard of batch ``index``: image, its labels, and mask bool[batch]."""
        part, count = self.shard
        size = self.batch_size // count
        start = index * self.batch_size + part * size
        mask = np.arange(start, start + size) < len(self.source)
        # A part without examples borrows one for its shape, and masks it.
        indices = np.minimum(np.arange(start, start + max(mask.sum(), 1)), len(self.source) - 1)
        images: Any
        images, labels = self.source.read(indices)
        if self.transform is not None:
            images = map(self.transform, images)
        images = _batch(iter(images), size)
        missing = size - len(indices)
        labels = np.pad(labels, ((0, missing),) + ((0, 0),) * (labels.ndim - 1))
        return {"image": images, self.label_key: labels, "mask": mask}
