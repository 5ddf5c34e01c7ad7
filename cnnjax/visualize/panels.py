"""Images side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np


def draw_panels(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], title: str, path: str | os.PathLike[str], *, size: float = 3.0
) -> None:
    """Draw titled images in rows to a PNG file.

    Args:
      rows: (title, image) each; images are [height, width, 1 or 3], uint8 or float in [0, 1], what is beyond clipped.
      title: above all.
      path: the file.
      size: inches of a panel.
    """
    # Not pyplot: its global state and its choice of a screen are the caller's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(size * columns, (size + 0.2) * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, (label, image) in zip(line, row, strict=False):
            pixels = image if image.dtype == np.uint8 else np.clip(image, 0, 1)
            grey = pixels.shape[-1] == 1
            axes.imshow(
                pixels[..., 0] if grey else pixels,
                cmap="gray",
                vmin=0,
                vmax=255 if image.dtype == np.uint8 else 1,
                interpolation="nearest" if max(pixels.shape[:2]) < 200 else None,
            )
            # From the left: a title that is longer than its panel goes on above the next one.
            axes.set_title(label, fontsize=10, loc="left")
    figure.savefig(path, dpi=100)
