"""The picture of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.sweep.search import Parameter
from cnnjax.training import TrainConfig
from cnnjax.visualize.canvas import new_figure, save_figure


def draw(done: Sequence[Any], search: Sequence[Parameter], config: TrainConfig, path: Path) -> None:
    """Draw the measure of all trials over each parameter, and the best so far, to a PNG file.

    Args:
      done: trials of Optuna that have ended well, at least one.
      search: what was tried.
      config: of the trials.
      path: written whole or not at all.
    """
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullFormatter, NullLocator

    done = sorted(done, key=lambda trial: trial.number)
    scale, label = (1, config.measure) if config.measure == "loss" else (100, f"{config.measure} (%)")
    values = np.array([scale * trial.value for trial in done])
    # In rows of four, so that the picture has the size of a slide.
    across = min(len(search) + 1, 4)
    lines = math.ceil((len(search) + 1) / across)
    title = f"{config.model} on {config.dataset}: {len(done)} trials of {config.epochs:g} epochs"
    figure = new_figure(3.3 * across + 0.8, 4 * lines, title)
    panels = figure.subplots(lines, across, sharey=True, squeeze=False).ravel()
    for axes in panels[len(search) + 1 :]:
        axes.set_visible(False)
    panels = panels[: len(search) + 1]
    order = np.arange(1, len(done) + 1)
    best = np.minimum.accumulate(values) if config.measure == "loss" else np.maximum.accumulate(values)
    panels[0].scatter(order, values, c=order, cmap="viridis", s=22)
    panels[0].step(order, best, where="post", color="tab:red", label="best so far")
    panels[0].set(xlabel="trial", ylabel=label)
    panels[0].legend()
    for axes, parameter in zip(panels[1:], search, strict=True):
        tried = [trial.params[parameter.name] for trial in done]
        if parameter.choices:
            # Side by side, where many trials tried the same.
            places = np.array([parameter.choices.index(value) for value in tried])
            x = places + np.linspace(-0.15, 0.15, len(done))
            names = [str(choice).replace(" ", "\n") for choice in parameter.choices]
            # About forty letters fit side by side.
            wide = len(names) * max(len(line) for name in names for line in name.split("\n")) > 40
            axes.set_xticks(range(len(names)), names, rotation=35 if wide else 0, ha="right" if wide else "center")
            axes.tick_params(axis="x", labelsize=8)
            axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        else:
            x = np.array(tried)
            axes.set_xscale("log" if parameter.log else "linear")
            if not parameter.log:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            elif x.max() > 10 * x.min():
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                # No power of ten may be among them: two numbers within a decade, each where it stands.
                axes.xaxis.set_major_locator(FixedLocator([x.min(), x.max()] if x.max() > x.min() else [x.min()]))
                axes.xaxis.set_major_formatter(FormatStrFormatter("%.2g"))
                axes.xaxis.set_minor_locator(NullLocator())
        points = axes.scatter(x, values, c=order, cmap="viridis", s=22)
        winner = int(values.argmin() if config.measure == "loss" else values.argmax())
        axes.scatter(x[winner], values[winner], s=90, facecolors="none", edgecolors="tab:red", linewidths=1.5)
        axes.set_xlabel(parameter.name.replace("_", " "))
    figure.colorbar(points, ax=list(panels), label="trial", ticks=MaxNLocator(integer=True))
    for axes in panels:
        axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=120)
