"""Training curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from cnnjax.visualize.canvas import new_figure, save_figure


def plot_curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw loss, accuracy of classifiers, and the learning rate over epochs, to a PNG file.

    Args:
      records: lines of a run's ``metrics.jsonl``; those with ``kind`` "epoch" are drawn: their ``epoch``, and
        ``train_loss``, ``test_loss`` and, where there are any, ``train_accuracy``, ``test_accuracy`` (from 0 to 1),
        ``test_raw_loss``, ``test_raw_accuracy`` (of the parameters, where moving averages are tested). The learning
        rate is drawn of all records that have it.
      path: written whole or not at all.
      title: above the picture.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [record for record in records if record.get("kind") == "epoch"]
    accuracies = any("test_accuracy" in record for record in epochs) or not epochs
    quantities = [("loss", 1, "loss (nats)" if accuracies else "loss")]
    if accuracies:
        quantities.append(("accuracy", 100, "accuracy (%)"))
    rates = [(record["step"], record["learning_rate"]) for record in records if "learning_rate" in record]
    count = len(quantities) + bool(rates)
    figure = new_figure(4.5 * count, 3.6, title)
    x = [record["epoch"] for record in epochs]
    marker = "o" if len(epochs) <= 30 else None
    panels = figure.subplots(1, count, squeeze=False)[0]
    lines = (("train", "tab:blue", "train"), ("test", "tab:orange", "test"), ("test_raw", "tab:green", "test, raw"))
    for axes, (quantity, scale, label) in zip(panels, quantities, strict=False):
        for split, colour, name in lines:
            points = [(epoch, record.get(f"{split}_{quantity}")) for epoch, record in zip(x, epochs, strict=True)]
            points = [(epoch, scale * value) for epoch, value in points if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if epochs:
            axes.legend()
    if rates:
        panels[-1].plot(*zip(*sorted(rates), strict=True), color="tab:red")
        panels[-1].set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        panels[-1].grid(alpha=0.3)
    save_figure(figure, path, dpi=120)
