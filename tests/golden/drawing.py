"""Numbers drawn by a fixed rule from a name and a shape, the same wherever and whenever they are drawn.

The bits are Philox's (Salmon et al. 2011), whose key is the SHA-256 of the name; numpy promises that the raw stream of
a bit generator never changes. All arithmetic on them is exact or correctly rounded.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np

STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")


def uniform(name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """Return float32[shape], uniform in [low, high)."""
    size = math.prod(shape)
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw((size + 1) // 2)
    bits = raw.astype("<u8", copy=False).view("<u4")[:size]
    fraction = (bits >> 8).astype(np.float32) * np.float32(2**-24)
    return (fraction * np.float32(high - low) + np.float32(low)).reshape(shape)


def weight(name: str, shape: Sequence[int], gain: float) -> np.ndarray:
    """Return an array for a network's weight of that name, in the layout of the library that names it so.

    Kernels have variance ``gain`` / inputs, variances and scales are around 1, biases and means around 0.

    Args:
      name: as PyTorch ("layer1.0.conv1.weight") or Keras ("conv1_conv/kernel") has it.
      shape: likewise.
      gain: 2 keeps the size of activations through a convolution and a ReLU; less keeps residual sums small.
    """
    leaf = re.split(r"[./]", name)[-1]
    if sum(length > 1 for length in shape) > 1 or leaf.endswith("kernel"):
        bound = math.sqrt(3 * gain / _inputs(leaf, shape))
        return uniform(name, shape, -bound, bound)
    if leaf in ("bias", "beta", "running_mean", "moving_mean"):
        return uniform(name, shape, -0.1, 0.1)
    return uniform(name, shape, 0.5, 1.5)


def _inputs(leaf: str, shape: Sequence[int]) -> int:
    """Return how many values each output of a kernel sums."""
    if not leaf.endswith("kernel"):
        return math.prod(shape[1:])
    # Keras: [height, width, in, out], and depthwise [height, width, in, 1].
    return math.prod(shape[:2]) if len(shape) == 4 and shape[-1] == 1 and shape[0] > 1 else math.prod(shape[:-1])


def images(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return float32[batch, height, width, channels] of mean 0 and variance 1: 4x4 patches of colour under noise.

    Noise alone would not do: all images of it look the same to a network that averages over them.
    """
    batch, height, width, channels = shape
    half = math.sqrt(1.5)
    patches = uniform(f"images/{name}/patches", (batch, 4, 4, channels), -half, half)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return patches[:, rows][:, :, columns] + uniform(f"images/{name}/noise", shape, -half, half)


def sample(values: np.ndarray, limit: int = 2048) -> np.ndarray:
    """Return all values of a small array, and ``limit`` ones at drawn places of a larger one."""
    if values.size <= limit:
        return values.reshape(-1)
    places = (uniform("places", (limit,), 0, 1).astype(np.float64) * values.size).astype(np.int64)
    return values.reshape(-1)[places]


def target(shape: Sequence[int]) -> np.ndarray:
    """Return what the outputs of a network should be when the loss is their mean squared distance to it."""
    return uniform("target", shape, -1, 1)


def digest(name: str, values: np.ndarray) -> tuple[float, float]:
    """Return two numbers that tell arrays apart: their norm, and their product with a drawn array."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return float(np.sqrt(flat @ flat)), float(flat @ uniform(f"digest/{name}", flat.shape, -1, 1))
