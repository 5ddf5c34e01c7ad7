"""Labels of pixels, drawn over their image."""

from __future__ import annotations

import numpy as np

# Colours of the classes 1, 2, ...: ten colours that are easy to tell apart (matplotlib's tab10, red first), repeated.
COLOURS = np.array(
    [
        (214, 39, 40),
        (31, 119, 180),
        (44, 160, 44),
        (255, 127, 14),
        (148, 103, 189),
        (23, 190, 207),
        (227, 119, 194),
        (188, 189, 34),
        (140, 86, 75),
        (127, 127, 127),
    ],
    np.float32,
)


def overlay(image: np.ndarray, labels: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Tint the pixels of an image in the colour of their class; class 0, the background, stays as it is.

    Args:
      image: uint8[height, width, 1 or 3].
      labels: int[height, width]; below 0 counts as background.
      strength: share of the colour, from 0 to 1.
    Returns:
      uint8[height, width, 3].
    Raises:
      ValueError: the sizes differ.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image and labels must have one size, got {image.shape[:2]} and {labels.shape}")
    pixels = np.broadcast_to(image, (*labels.shape, 3)).astype(np.float32)
    tint = COLOURS[(labels - 1) % len(COLOURS)]
    mixed = np.where(labels[..., None] > 0, (1 - strength) * pixels + strength * tint, pixels)
    return np.round(mixed).astype(np.uint8)
