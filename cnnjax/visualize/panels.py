"""Images side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from cnnjax.visualize.canvas import new_figure, save_figure, show_image


def draw_panels(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], title: str, path: str | os.PathLike[str], *, size: float = 3.0
) -> None:
    """Draw titled images in rows to a PNG file.

    Args:
      rows: (title, image) each; images are [height, width, 1 or 3], uint8 or float in [0, 1], what is beyond clipped.
      title: above all.
      path: written whole or not at all.
      size: inches of a panel.
    """
    columns = max(len(row) for row in rows)
    figure = new_figure(size * columns, (size + 0.2) * len(rows) + 0.5, title)
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, (label, image) in zip(line, row, strict=False):
            show_image(axes, image)
            # From the left: a title that is longer than its panel goes on above the next one.
            axes.set_title(label, fontsize=10, loc="left")
    save_figure(figure, path)
