"""What pictures of claims share: their frame, and how numbers with a spread over seeds are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def frame(axes: Axes, *, legend: bool = True, **settings: Any) -> None:
    """Give axes their labels and limits (of ``Axes.set``), a grid and a legend."""
    axes.set(**settings)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize=8)


def seed_dots(axes: Axes, rows: Mapping[str, Sequence[float]], colour: str | None = None, label: str = "") -> None:
    """Draw the value of each seed above the row's name, and a line at their mean.

    Args:
      axes: matplotlib's.
      rows: name -> float[seeds].
      colour: of all rows; None: each has its own.
      label: in the legend.
    """
    for place, values in enumerate(rows.values()):
        own = colour or f"C{place}"
        axes.plot([place] * len(values), values, "o", color=own, alpha=0.7, label=label if place == 0 else None)
        axes.plot([place - 0.2, place + 0.2], [np.mean(values)] * 2, color=own)
    axes.set_xticks(range(len(rows)), list(rows))


def seed_points(axes: Axes, rows: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw, by name, the value of each seed at some numbers, and a line through the means.

    Numbers are laid out by their logarithms, and the axis has a tick at each.

    Args:
      axes: matplotlib's.
      rows: name -> number, as text -> float[seeds].
    """
    for place, (name, values) in enumerate(rows.items()):
        means = [np.mean(each) for each in values.values()]
        axes.plot([float(number) for number in values], means, color=f"C{place}", label=name)
        for number, each in values.items():
            axes.plot([float(number)] * len(each), each, "o", color=f"C{place}", alpha=0.4)
    axes.set_xscale("log")
    tick_at(axes, sorted({number for values in rows.values() for number in values}, key=float))


def tick_at(axes: Axes, numbers: Sequence[str] | Sequence[int]) -> None:
    """Give the horizontal axis a tick at each of some numbers, and no others."""
    axes.set_xticks([float(number) for number in numbers], [str(number) for number in numbers])
    axes.minorticks_off()


def picture(axes: Axes, values: ArrayLike, title: str) -> None:
    """Draw float[height, width], from 0 (black) to 1 (white), without ticks."""
    axes.imshow(np.asarray(values), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def seed_curves(
    axes: Axes, curves: Sequence[Sequence[float]], record: int, colour: str, label: str, **options: Any
) -> None:
    """Draw float[seeds, records] against the step, each seed a line.

    Args:
      axes: matplotlib's.
      curves: a number for every ``record`` steps.
      record: steps.
      colour, label: of all lines.
      **options: for ``Axes.plot``.
    """
    for number, row in enumerate(curves):
        steps = [record * (place + 1) for place in range(len(row))]
        # A single record is a dot.
        axes.plot(
            steps, row, ".-", markersize=3, color=colour, alpha=0.7, label=label if number == 0 else None, **options
        )
