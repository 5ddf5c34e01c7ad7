"""Training curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_curves(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw loss and, of classifiers, accuracy over epochs, train and test, to a PNG file.

    Args:
      records: lines of a run's ``metrics.jsonl``; those with ``kind`` "epoch" are drawn: their ``epoch``, and
        ``train_loss``, ``test_loss`` and, where there are any, ``train_accuracy``, ``test_accuracy`` (from 0 to 1).
      path: written whole or not at all.
      title: above the picture.
    """
    # Not pyplot: its global state and its choice of a screen are the caller's.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [record for record in records if record.get("kind") == "epoch"]
    accuracies = any("test_accuracy" in record for record in epochs) or not epochs
    quantities = [("loss", 1, "loss (cross-entropy, nats)" if accuracies else "loss")]
    if accuracies:
        quantities.append(("accuracy", 100, "accuracy (%)"))
    figure = Figure(figsize=(4.5 * len(quantities), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    x = [record["epoch"] for record in epochs]
    marker = "o" if len(epochs) <= 30 else None
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, (quantity, scale, label) in zip(panels, quantities, strict=True):
        for split, colour in (("train", "tab:blue"), ("test", "tab:orange")):
            y = [scale * record[f"{split}_{quantity}"] for record in epochs]
            axes.plot(x, y, color=colour, marker=marker, markersize=3, label=split)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    figure.savefig(part, dpi=120, format="png")
    part.replace(target)
