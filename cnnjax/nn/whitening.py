"""Filters that whiten: which a first layer can start from, and need not learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Images at a time, whose patches are in memory together.
CHUNK = 256


def whitening_kernel(images: Any, window: Sequence[int], features: int, *, epsilon: float = 5e-4) -> np.ndarray:
    """Return the kernel of a first convolution that makes values of patches uncorrelated and equally large.

    Half of the filters are eigenvectors of the patches' second moments E[x x^T], those of the largest eigenvalues
    first, each divided by sqrt(eigenvalue + epsilon); the other half are their negatives, which a rectifier behind the
    layer would lose otherwise. The largest entry of an eigenvector is positive in the first half.

    >>> images = np.random.default_rng(0).normal(size=(50, 8, 8, 3))
    >>> whitening_kernel(images, (2, 2), 24).shape
    (2, 2, 3, 24)

    Source: Page 2019, "How to train your ResNet 8: bag of tricks"; Jordan 2024, arXiv:2404.00498, section 3: patches of
    2x2 pixels of the first 5,000 training images of CIFAR-10, all 12 eigenvectors.

    Args:
      images: float[images, height, width, channels], as the network takes them.
      window: height and width of the patches, pixels.
      features: number of filters: even, and at most twice the values of a patch.
      epsilon: added to the eigenvalues.
    Returns:
      float32[height, width, channels, features].
    Raises:
      ValueError: another number of features; images that are smaller than a patch.
    """
    images = np.asarray(images)
    height, width = window
    values = height * width * images.shape[-1]
    if features < 2 or features % 2 or features > 2 * values:
        raise ValueError(
            f"features must be even and at most {2 * values}, twice the {values} values of a patch, got {features}"
        )
    if images.shape[1] < height or images.shape[2] < width:
        raise ValueError(f"images must have {height}x{width} pixels or more, got shape {images.shape}")
    moments, count = np.zeros((values, values)), 0
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(chunk, (height, width), axis=(1, 2))
        # [image, row, column, channel, height, width] in the order of a kernel.
        rows = np.moveaxis(patches, 3, -1).reshape(-1, values)
        moments += rows.T @ rows
        count += len(rows)
    eigenvalues, vectors = np.linalg.eigh(moments / count)
    order = np.argsort(-eigenvalues)[: features // 2]
    vectors = vectors[:, order]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(features // 2)]
    filters = vectors * np.sign(largest) / np.sqrt(eigenvalues[order] + epsilon)
    kernel = np.concatenate([filters, -filters], axis=1)
    return kernel.reshape(height, width, images.shape[-1], features).astype(np.float32)
