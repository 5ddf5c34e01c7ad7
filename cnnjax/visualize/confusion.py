"""Which classes a classifier takes for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.visualize.canvas import new_figure, save_figure

# More names or numbers than that cannot be read.
NAMED, NUMBERED = 60, 20


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: str | os.PathLike[str], title: str) -> None:
    """Draw a confusion matrix to a PNG file; colours are shares of the row, numbers are counts.

    Args:
      matrix: int[classes, classes], true class by predicted class.
      names: of the classes.
      path: written whole or not at all.
      title: above the picture.
    """
    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(max(4.5, 0.45 * count), 14)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if count <= NAMED:
        turned: dict[str, Any] = {"rotation": 90} if max(map(len, names)) > 2 else {}
        axes.set_xticks(range(count), names, **turned)
        axes.set_yticks(range(count), names)
    if count <= NUMBERED:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, fontsize=8)
    save_figure(figure, path, dpi=120)
