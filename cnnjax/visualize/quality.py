"""How good maps are: curves of deletion and insertion, and what is left of maps as layers are drawn anew."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.visualize.canvas import new_figure, save_figure

# Each method has its line style beside its colour, from Okabe and Ito's palette for the colour-blind.
LINES = (
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#009e73", "-."),
    ("#cc79a7", ":"),
    ("#e69f00", (0, (5, 1))),
    ("#56b4e9", (0, (3, 1, 1, 1))),
    ("#000000", (0, (1, 1))),
)


def draw_removal_curves(curves: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw curves of deletion and insertion, means over the images, to a PNG file.

    Args:
      curves: "deletion" or "insertion" -> name of the method -> (fractions, scores, area), as `cnnjax.explain.deletion`
        returns it.
      path: written whole or not at all.
      title: above all.
    """
    figure = new_figure(5 * len(curves), 3.8, title)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (kind, methods) in zip(panels, curves.items(), strict=True):
        for number, (name, curve) in enumerate(methods.items()):
            colour, style = LINES[number % len(LINES)]
            fractions, scores, area = (np.asarray(part) for part in curve)
            label = f"{name}, area {area.mean():.3f}"
            axes.plot(100 * fractions, scores.mean(0), color=colour, linestyle=style, label=label)
        better = "small" if kind == "deletion" else "large"
        verb = "removed" if kind == "deletion" else "put in"
        axes.set(xlabel=f"pixels {verb} (%)", title=f"{kind}: good maps have a {better} area")
        axes.set(ylabel="probability of the class", xlim=(0, 100), ylim=(0, None))
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)


def draw_randomization(
    layers: Sequence[str], correlations: Mapping[str, np.ndarray], path: str | os.PathLike[str], title: str
) -> None:
    """Draw how much of maps is left as layers are drawn anew from the top down, to a PNG file.

    Args:
      layers: paths in the order in which they are drawn anew.
      correlations: name of the method -> float[layers, batch], as in `cnnjax.explain.Randomization`; the mean over
        images is drawn, those left out for which there is none.
      path: written whole or not at all.
      title: above all.
    """
    figure = new_figure(max(0.45 * len(layers) + 3, 5), 4, title)
    axes = figure.subplots()
    places = range(len(layers) + 1)
    for number, (name, found) in enumerate(correlations.items()):
        colour, style = LINES[number % len(LINES)]
        known = np.ma.masked_invalid(found).mean(1).filled(np.nan)
        axes.plot(places, [1, *known], color=colour, linestyle=style, marker="o", markersize=3, label=name)
    axes.set_xticks(places, ["trained", *layers], rotation=90 if len(layers) > 8 else 20, fontsize=8)
    axes.set(ylabel="rank correlation with the trained map", xlabel="drawn anew up to here", ylim=(-0.55, 1.05))
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
