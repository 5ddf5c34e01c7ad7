"""The weights in the files that other libraries have written for these tests."""

import numpy as np

NAME = "resnet20"
# Files of a few kilobytes.
FIELDS = {"stage_sizes": (1, 1, 1), "features": 2}


def draw(shapes):
    """Return arrays for names and shapes: running numbers, in the order of names."""
    start, arrays = 0, {}
    for name, shape in sorted(shapes.items()):
        size = int(np.prod(shape))
        arrays[name] = ((np.arange(start, start + size) % 251 + 1) / 256).astype(np.float32).reshape(shape)
        start += size
    return arrays
