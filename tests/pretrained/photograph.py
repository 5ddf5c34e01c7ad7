"""A picture that the library of each file of weights and ours prepare for a network, and what it answers."""

from __future__ import annotations

import numpy as np
from golden import drawing


def photograph() -> np.ndarray:
    """Return uint8[150, 211, 3]: patches of colour, a gradient and noise, so that order, crop and resize all count."""
    height, width = 150, 211
    patches = drawing.uniform("photograph/patches", (5, 7, 3), 0, 190)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    noise = drawing.uniform("photograph/noise", (height, width, 3), 0, 40)
    slope = np.arange(width, dtype=np.float32)[None, :, None] / width * np.array([25, 0, 10], np.float32)
    return np.floor(patches[rows][:, columns] + noise + slope).astype(np.uint8)
