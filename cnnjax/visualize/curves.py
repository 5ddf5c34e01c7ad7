"""Training curves, of one run or several."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.visualize.canvas import new_figure, save_figure
from cnnjax.visualize.measures import MEASURES, find_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[Mapping[str, Any]]
# What is drawn of a run, the prefix of its names in the records, and how.
LINES = (("train", "tab:blue", "train"), ("test", "tab:orange", "test"), ("test_raw", "tab:green", "test, raw"))


def plot_curves(
    records: Records, path: str | os.PathLike[str], title: str, rates: Sequence[tuple[int, float]] | None = None
) -> None:
    """Draw loss, the measure beside it, and the learning rate of a run, to a PNG file.

    Args:
      records: lines of a run's ``metrics.jsonl``; those with ``kind`` "epoch" are drawn: their ``epoch``, and
        ``train_loss``, ``test_loss`` and, where there are any, ``train_accuracy``, ``test_accuracy`` or another of
        `cnnjax.visualize.measures.MEASURES`, ``test_raw_loss`` and ``test_raw_accuracy`` (of the parameters, where
        moving averages are tested).
      path: written whole or not at all.
      title: above the picture.
      rates: (step, learning rate) of some steps; None: of all records that have a ``learning_rate``.
    """
    epochs = [record for record in records if record.get("kind") == "epoch"]
    if rates is None:
        rates = sorted((record["step"], record["learning_rate"]) for record in records if "learning_rate" in record)
    quantities = _quantities(epochs)
    count = len(quantities) + bool(rates)
    figure = new_figure(4.5 * count, 3.6, title)
    marker = "o" if len(epochs) <= 30 else None
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=False):
        for split, colour, name in LINES:
            points = _points(epochs, f"{split}_{quantity}", _scale(quantity))
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=name)
        _name_axes(axes, quantities, quantity)
        if epochs:
            axes.legend()
    if rates:
        panels[-1].plot(*zip(*rates, strict=True), color="tab:red")
        panels[-1].set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        panels[-1].grid(alpha=0.3)
    save_figure(figure, path, dpi=120)


def plot_runs(runs: Mapping[str, Records], path: str | os.PathLike[str], title: str = "") -> None:
    """Draw loss and the measure beside it of several runs, test lines whole and training lines dashed, to a PNG file.

    Args:
      runs: records of each by its name, see `plot_curves`.
      path: written whole or not at all.
      title: above the picture.
    """
    from matplotlib.lines import Line2D

    epochs = {name: [record for record in records if record.get("kind") == "epoch"] for name, records in runs.items()}
    # Runs of several kinds have several measures.
    quantities = list(dict.fromkeys(name for records in epochs.values() for name in _quantities(records)))
    width = 5.5 * len(quantities)
    # A column has a line of 0.7 inches and the longest name.
    columns = max(int(width / (0.7 + 0.085 * max(map(len, runs)))), 1)
    below = 0.25 * math.ceil((len(runs) + 2) / columns)
    figure = new_figure(width, 4.2 + below, title)
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    colours = [f"C{number % 10}" for number in range(len(runs))]
    for axes, quantity in zip(panels, quantities, strict=True):
        for colour, records in zip(colours, epochs.values(), strict=True):
            marker = "o" if len(records) <= 30 else None
            for split, line in (("train", "--"), ("test", "-")):
                points = _points(records, f"{split}_{quantity}", _scale(quantity))
                if points:
                    style = {"linestyle": line, "alpha": 0.5 if split == "train" else 1.0, "markersize": 3}
                    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, **style)
        _name_axes(axes, quantities, quantity)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in zip(runs, colours, strict=True)]
    handles += [
        Line2D([], [], color="black", alpha=0.5, linestyle="--", label="train"),
        Line2D([], [], color="black", label="test"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False)
    save_figure(figure, path, dpi=120)


def _quantities(epochs: Records) -> list[str]:
    """Return the loss and what stands beside it."""
    measured = {name.removeprefix("test_") for record in epochs for name in record if name.startswith("test_")}
    measure = find_measure(measured) if epochs else "accuracy"
    return ["loss", measure] if measure else ["loss"]


def _scale(quantity: str) -> float:
    return MEASURES[quantity][1] if quantity in MEASURES else 1


def _points(epochs: Records, name: str, scale: float) -> list[tuple[float, float]]:
    """Return (epoch, measure) of the epochs that have it."""
    return [(record["epoch"], scale * record[name]) for record in epochs if record.get(name) is not None]


def _name_axes(axes: Axes, quantities: Sequence[str], quantity: str) -> None:
    from matplotlib.ticker import MaxNLocator

    loss = "loss (nats)" if list(quantities) == ["loss", "accuracy"] else "loss"
    axes.set(xlabel="epoch", ylabel=MEASURES[quantity][0] if quantity in MEASURES else loss)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
