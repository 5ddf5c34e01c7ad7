"""How measures are named and written, and which one stands beside the loss."""

from __future__ import annotations

from collections.abc import Iterable

# What may stand beside the loss, the first that was measured: what its axis is called, and what it is multiplied by.
MEASURES = {
    "accuracy": ("accuracy (%)", 100),
    "foreground_iou": ("IoU without background (%)", 100),
    "psnr": ("PSNR (dB)", 1),
    "mae": ("mean absolute error", 1),
}


def find_measure(names: Iterable[str]) -> str | None:
    """Return which measure stands beside the loss, of those with these names; None if none of them does."""
    known = set(names)
    return next((name for name in MEASURES if name in known), None)


def less_is_better(measure: str) -> bool:
    """Return whether a measure is an error: a loss, or a mean absolute or squared error."""
    return measure.rpartition("_")[2] in ("loss", "mae", "mse")


def measure_text(name: str, value: float) -> str:
    """Return a measure in its unit, such as "97.22 %".

    Args:
      name: such as "accuracy", "test_foreground_iou" or "loss".
      value: accuracies, IoU, Dice and precision are from 0 to 1.
    """
    last = name.rpartition("_")[2]
    if last in ("accuracy", "iou", "dice", "precision"):
        return f"{100 * value:.2f} %"
    if last == "psnr":
        return f"{value:.2f} dB"
    return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"
