"""Images side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from cnnjax.visualize.canvas import new_figure, save_figure, show_image

# Inches of a slide.
SLIDE = 16.0, 9.0


def draw_panels(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], title: str, path: str | os.PathLike[str], *, size: float = 3.0
) -> None:
    """Draw titled images in rows to a PNG file.

    Args:
      rows: (title, image) each; images are [height, width, 1 or 3], uint8 or float in [0, 1], what is beyond clipped.
      title: above all.
      path: written whole or not at all.
      size: width of a panel, in inches; it is as high as its highest image needs.
    """
    columns = max(len(row) for row in rows)
    shape = max(image.shape[0] / image.shape[1] for row in rows for _, image in row)
    figure = new_figure(size * columns, (size * shape + 0.2) * len(rows) + 0.5, title)
    for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes in line:
            axes.axis("off")
        for axes, (label, image) in zip(line, row, strict=False):
            show_image(axes, image)
            # From the left: a title that is longer than its panel goes on above the next one.
            axes.set_title(label, fontsize=10, loc="left")
    save_figure(figure, path)


def draw_blocks(
    blocks: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], title: str, path: str | os.PathLike[str]
) -> None:
    """Draw rows of titled images as blocks of a slide, 16 by 9, several blocks side by side, to a PNG file.

    Args:
      blocks: a heading, and (title, image) of each panel; images as of `draw_panels`.
      title: above all.
      path: written whole or not at all.
    """
    across = max(len(panels) for _, panels in blocks)
    # As many columns as leave the panels largest: a panel takes a square, and 0.5 of its inches more for what is above.
    sides = {}
    for columns in range(1, len(blocks) + 1):
        lines = math.ceil(len(blocks) / columns)
        sides[columns] = min(SLIDE[0] / (columns * across), (SLIDE[1] - 0.5) / lines - 0.5)
    columns = max(sides, key=lambda number: sides[number])
    lines = math.ceil(len(blocks) / columns)
    figure = new_figure(*SLIDE, title)
    subfigures = figure.subfigures(lines, columns, squeeze=False).ravel()
    for subfigure, (heading, panels) in zip(subfigures, blocks, strict=False):
        subfigure.suptitle(heading, fontsize=9, fontweight="bold", x=0.02, ha="left")
        for axes in (every := subfigure.subplots(1, across, squeeze=False)[0]):
            axes.axis("off")
        for axes, (label, image) in zip(every, panels, strict=False):
            show_image(axes, image)
            axes.set_title(label, fontsize=7, pad=2)
    save_figure(figure, path, dpi=120)
