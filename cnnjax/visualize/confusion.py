"""Which classes a classifier takes for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.writing import write_whole

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
    # Not pyplot: its global state and its choice of a screen are the caller's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(matrix)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = min(max(4.5, 0.45 * count), 14)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    FigureCanvasAgg(figure)
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
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))
