"""Transposed convolution: its worked example, and checkerboards where the stride does not divide the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict
from cnnjax.claims.drawing import picture
from cnnjax.signal import correlate, transpose_convolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNAL, KERNEL, STRIDE = (1.0, 2.0), (3.0, 4.0, 5.0), 2
# Two copies of the kernel, 3 4 5 and 6 8 10, two places apart; where they overlap, they are summed.
WORKED = [3.0, 4.0, 5.0 + 6.0, 8.0, 10.0]
WINDOWS, STRIDES = (2, 3, 4, 5, 6), (1, 2, 3, 4)
LENGTH = 24
# Overlaps repeat after each stride; all strides divide this.
PERIOD = 12


def overlaps(window: int, stride: int) -> np.ndarray:
    """Return how many copies of the kernel fall on each place, away from both ends: int[PERIOD]."""
    counts = np.asarray(transpose_convolve(np.ones(LENGTH, np.float32), np.ones(window, np.float32), stride=stride))
    return counts[2 * window : 2 * window + PERIOD].astype(int)


def measure(setting: Setting) -> Numbers:
    """Compute the example, compare it with the transposed matrix of the convolution, and count overlaps."""
    example = np.asarray(transpose_convolve(SIGNAL, KERNEL, stride=STRIDE))
    # Row by row: what the convolution that is transposed makes of each unit vector.
    units = np.eye(len(example), dtype=np.float32)
    matrix = np.stack([np.asarray(correlate(unit, KERNEL, padding="VALID", stride=STRIDE)) for unit in units])
    variation = {
        f"{window} over {stride}": round(float(overlaps(window, stride).std() / overlaps(window, stride).mean()), 6)
        for window in WINDOWS
        for stride in STRIDES
        if stride <= window
    }
    return {"example": example.tolist(), "by_matrix": (matrix @ np.asarray(SIGNAL)).tolist(), "variation": variation}


def judge(numbers: Numbers) -> Verdict:
    """Compare with the worked example; overlaps must vary where the stride does not divide the window, only there."""
    divided: list[float] = []
    others: list[float] = []
    for name, variation in numbers["variation"].items():
        window, stride = map(int, name.split(" over "))
        (others if window % stride else divided).append(variation)
    right = numbers["example"] == numbers["by_matrix"] == WORKED
    return Verdict(
        right and max(divided) == 0 and min(others) > 0,
        f"the example gives {numbers['example']}, the transposed matrix {numbers['by_matrix']}; the number of "
        f"overlaps varies by {100 * max(divided):.0f} % where the stride divides the window ({len(divided)} pairs), "
        f"and by {100 * min(others):.0f} to {100 * max(others):.0f} % where it does not ({len(others)} pairs; "
        "exact, no spread)",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the overlaps in two dimensions, for each window and stride."""
    for line, window in zip(figure.subplots(len(WINDOWS), len(STRIDES)), WINDOWS, strict=True):
        for axes, stride in zip(line, STRIDES, strict=True):
            if stride > window:
                axes.axis("off")
                continue
            counts = overlaps(window, stride)
            variation = numbers["variation"][f"{window} over {stride}"]
            title = f"window {window}, stride {stride}: {100 * variation:.0f} %"
            picture(axes, np.outer(counts, counts) / max(counts) ** 2, title)
    figure.suptitle("How many copies of the kernel overlap at each pixel, and how much that varies along a row")


CLAIM = Claim(
    name="transposed",
    statement="A transposed convolution sums shifted copies of its kernel; where the stride does not divide the "
    "window, they overlap unevenly, which shows as checkerboards.",
    source="Dumoulin and Visin 2016, arXiv:1603.07285, section 4; Odena, Dumoulin and Olah 2016, Distill, "
    "'Deconvolution and checkerboard artifacts'",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(8.0, 9.5),
)
