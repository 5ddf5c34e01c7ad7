"""Mean and standard deviation of a data set's pixels, in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnjax.data.source import ArraySplit, DataError, ExampleSource


class Statistics(NamedTuple):
    """Mean and standard deviation of a data set's pixels.

    Attributes:
      mean, std: per channel, for pixels in [0, 1], to six decimals; the pixels are all there are, and no sample.
      examples, pixels: how many there are.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    examples: int
    pixels: int


def statistics(
    source: ExampleSource, transform: Callable[[np.ndarray], np.ndarray] | None = None, batch: int = 64
) -> Statistics:
    """Measure mean and standard deviation a channel, in one pass over a split.

    The 256 values are counted, so the result is exact and the same in whatever order, and memory does not grow with the
    split: sets of any size will do. Every pixel counts as much as any other, so a large image weighs more than a small
    one unless ``transform`` makes them equal.

    Args:
      source: the split; uint8 images.
      transform: what images go through first, for example `cnnjax.data.transforms.ResizeAndCentreCrop`, which makes
        the statistics those of what the network sees in evaluation.
      batch: images read at a time, by each of several threads.
    Raises:
      DataError: the split is empty, or its images differ in channels.
    """
    if not len(source):
        raise DataError("a split without examples has no statistics")

    def count(start: int) -> np.ndarray:
        images, _ = source.read(np.arange(start, min(start + batch, len(source))))
        if transform is not None:
            images = [transform(image) for image in images]
        if isinstance(images, np.ndarray):
            return _histogram(images)
        histograms = [_histogram(image) for image in images]
        if len({len(histogram) for histogram in histograms}) > 1:
            raise DataError("images of one split must have the same number of channels")
        return np.sum(histograms, axis=0)

    if isinstance(source, ArraySplit) and transform is None:
        batch = max(batch, 4096)
    starts = range(0, len(source), batch)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        counts: np.ndarray | None = None
        for part in pool.map(count, starts):
            counts = part if counts is None else counts + part
    assert counts is not None
    values = np.arange(256) / 255
    pixels = counts.sum(1)
    mean = counts @ values / pixels
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / pixels)
    return Statistics(
        tuple(round(float(value), 6) for value in mean),
        tuple(round(float(value), 6) for value in std),
        len(source),
        int(pixels[0]),
    )


def _histogram(images: np.ndarray) -> np.ndarray:
    """Return int64[channels, 256], how often each value occurs."""
    return np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
