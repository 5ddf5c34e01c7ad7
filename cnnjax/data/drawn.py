"""Examples that are drawn, not stored: patches of photographs, composed scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import grain
import numpy as np

from cnnjax.data.pipeline import WHOLE, Batch, Shard, check_shard

# Draws one example with a generator of its own.
Draw = Callable[[np.random.Generator], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class DrawnBatches:
    """Random access to the training batches of a run (a Grain data source): each depends on seed and number alone.

    Attributes:
      draw: returns an example of equal shapes each time; example ``number`` of the run has the generator of (seed,
        number).
      batch_size: examples per batch, over all processes.
      num_batches: length of the run.
      shard: which part of every batch, and of how many, is drawn: (index, count).
    """

    draw: Draw
    batch_size: int
    num_batches: int
    seed: int
    shard: Shard = WHOLE

    def __post_init__(self) -> None:
        check_shard(self.shard, self.batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        """Return the shard of batch ``index``: what is drawn, [batch, ...] each."""
        part, count = self.shard
        size = self.batch_size // count
        first = index * self.batch_size + part * size
        examples = [
            self.draw(np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number)))))
            for number in range(first, first + size)
        ]
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


@dataclasses.dataclass(frozen=True)
class DrawnData:
    """Training examples that are drawn, and stored ones to test on.

    Attributes:
      draw: see `DrawnBatches`.
      test: arrays [examples, ...], such as ``image`` and ``target``.
    """

    draw: Draw
    test: Mapping[str, np.ndarray]

    def train_batches(
        self, batch_size: int, num_batches: int, seed: int, shard: Shard = WHOLE
    ) -> grain.DatasetIterator:
        """Return an iterator over training batches, whose state is its position; see `DataPipeline.train_batches`."""
        batches = DrawnBatches(self.draw, batch_size, num_batches, seed, shard)
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        return iter(grain.MapDataset.source(batches).to_iter_dataset(options))

    def test_batches(self, batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield every test example once, in order; see `stored_batches`."""
        return stored_batches(self.test, batch_size, shard)


def stored_batches(arrays: Mapping[str, np.ndarray], batch_size: int, shard: Shard = WHOLE) -> Iterator[Batch]:
    """Yield every example of ``arrays`` once, in order; batches are padded, and ``mask`` is 0 on the padding.

    Args:
      arrays: [examples, ...] each.
      batch_size: examples per batch, over all processes.
      shard: (index, count) of this process and all processes: it gets the ``index``-th of ``count`` equal contiguous
        parts of every batch.
    """
    check_shard(shard, batch_size)
    part, count = shard
    size = batch_size // count
    examples = len(next(iter(arrays.values())))
    for start in range(part * size, -(-examples // batch_size) * batch_size, batch_size):
        mask = np.arange(start, start + size) < examples
        batch = {key: array[start : start + size] for key, array in arrays.items()}
        yield {
            key: np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1)) for key, array in batch.items()
        } | {"mask": mask}
