"""Figures that are drawn into files, and what all pictures of arrays share."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Images of fewer pixels are drawn pixel by pixel.
SMALL = 200
# Width and height of a letter of 9 points, in inches.
LETTER, LINE = 0.075, 0.15
# Colour maps for values from 0 up, and for signed values, whose middle is 0. Both serve the colour-blind too.
UNSIGNED, SIGNED = "viridis", "RdBu_r"


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return a figure of a size in inches; matplotlib's pyplot, its state and its choice of a screen stay untouched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure


def wrapped(texts: Sequence[str], inches: float) -> list[str]:
    """Return texts of 9 points in lines that are so wide at most, as names of files may be long.

    Args:
      texts: of one line or more.
      inches: of a panel.
    """
    letters = max(int(inches / LETTER), 1)
    return ["\n".join(textwrap.fill(line, letters) for line in text.split("\n")) for text in texts]


def lines_of(texts: Iterable[str]) -> int:
    """Return the lines of the text that has most of them."""
    return max((text.count("\n") + 1 for text in texts), default=0)


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 100) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    write_whole(path, lambda file: figure.savefig(file, dpi=dpi, format="png"))


def show_image(axes: Axes, image: np.ndarray, **options: Any) -> None:
    """Draw an image without ticks.

    Args:
      axes: matplotlib's.
      image: [height, width, 1 or 3], uint8 or float in [0, 1], what is beyond clipped.
      **options: for ``axes.imshow``.
    """
    pixels = image if image.dtype == np.uint8 else np.clip(image, 0, 1)
    axes.imshow(
        pixels[..., 0] if pixels.shape[-1] == 1 else pixels,
        cmap="gray",
        vmin=0,
        vmax=255 if image.dtype == np.uint8 else 1,
        interpolation="nearest" if max(pixels.shape[:2]) < SMALL else None,
        **options,
    )
    axes.axis("off")


def show_values(axes: Axes, values: np.ndarray, limit: float, signed: bool, **options: Any) -> Any:
    """Draw float[height, width] in colours up to the limit, from 0 or with a sign, and return what a bar is for."""
    axes.axis("off")
    return axes.imshow(
        values,
        cmap=SIGNED if signed else UNSIGNED,
        vmin=-limit if signed else 0,
        vmax=limit,
        interpolation="nearest" if max(values.shape) < SMALL else None,
        **options,
    )


def limit_of(values: np.ndarray, share: float = 1.0) -> float:
    """Return the magnitude that so large a share of the values keeps; 1 where all values are 0."""
    magnitudes = np.abs(values)
    return float(np.quantile(magnitudes, share)) or float(magnitudes.max()) or 1.0


def add_scale(figure: Figure, axes: Any, drawn: Any, values: np.ndarray, **options: Any) -> None:
    """Add the colour bar of values, with an arrow at each end that some of them lie beyond."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    low, high = bool((values < drawn.norm.vmin).any()), bool((values > drawn.norm.vmax).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[low, high]
    bar = figure.colorbar(drawn, ax=axes, extend=extend, **options)
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(3)
    bar.formatter = ScalarFormatter(useMathText=True)
    bar.formatter.set_powerlimits((-2, 3))
    bar.update_ticks()
    for offset in (bar.ax.xaxis.get_offset_text(), bar.ax.yaxis.get_offset_text()):
        offset.set_fontsize(7)
