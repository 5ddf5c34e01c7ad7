"""A training split that lives on the device: the host sends the places of a batch's examples, not the examples."""

from __future__ import annotations

import dataclasses

import numpy as np

from cnnjax.data.pipeline import WHOLE, Batch, BatchIterator, BatchStream, DataPipeline, Shard
from cnnjax.data.source import ArraySplit


class IndexStream(BatchStream):
    """A `BatchStream` of places instead of examples."""

    def __getitem__(self, index: int) -> Batch:
        """Return ``index`` int32[batch], the places in the split of batch ``index``'s examples, and their turns."""
        positions, order = self.order(index)
        return {"index": order.astype(np.int32)} | self.turns_of(positions, order)


class ResidentPipeline(DataPipeline):
    """A `DataPipeline` whose training batches are places in `arrays`, in the same order with the same positions."""

    @classmethod
    def of(cls, pipeline: DataPipeline) -> ResidentPipeline:
        """Return ``pipeline``, whose training split must be in memory, with batches of this kind."""
        return cls(**{field.name: getattr(pipeline, field.name) for field in dataclasses.fields(pipeline)})

    @property
    def arrays(self) -> Batch:
        """The whole training split: ``image`` uint8[examples, height, width, channels], and the labels."""
        assert isinstance(self.train, ArraySplit)
        return {"image": self.train.images, self.label_key: self.train.labels}

    def train_batches(self, batch_size: int, num_batches: int, seed: int, shard: Shard = WHOLE) -> BatchIterator:
        """Return an iterator over batches' ``index`` int32[batch]; see `DataPipeline.train_batches`."""
        stream = IndexStream(self.train, batch_size, num_batches, seed, shard=shard, turns=self.turns)
        return BatchIterator(stream, threads=0)


def fits_the_device(pipeline: DataPipeline, limit: int) -> bool:
    """Return whether the training split can live on a device: in memory, ready as it is, and in ``limit`` bytes."""
    return (
        isinstance(pipeline.train, ArraySplit)
        and pipeline.train_transform is None
        and pipeline.train.images.nbytes <= limit
    )
