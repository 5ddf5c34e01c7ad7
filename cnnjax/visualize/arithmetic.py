"""The arithmetic of convolution and transposed convolution on small arrays, number by number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cnnjax import signal
from cnnjax.visualize.canvas import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INPUT, KERNEL, OUTPUT, PADDING, WINDOW = "#ddeeff", "#ffeebb", "#ddf5dd", "#eeeeee", "#cc3311"
MOST_CELLS = 400


def _number(value: float) -> str:
    return f"{value:.3g}"


def _grid(axes: Axes, values: np.ndarray, title: str, colour: str, **options: Any) -> None:
    """Draw a matrix as cells with their numbers.

    Args:
      axes: matplotlib's.
      values: float[height, width]; NaN leaves a cell empty.
      title: above it.
      colour: of the cells.
      **options: ``border``, so many cells on each side are drawn as padding; ``window``, (top, left, height, width)
        of a red frame.
    """
    from matplotlib.patches import Rectangle

    border, window = options.get("border", 0), options.get("window")
    height, width = values.shape
    for row in range(height):
        for column in range(width):
            inside = border <= row < height - border and border <= column < width - border
            face = colour if inside else PADDING
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="#888888", linewidth=0.6))
            if not np.isnan(values[row, column]):
                text = _number(values[row, column])
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)
    if window is not None:
        top, left, high, wide = window
        frame = Rectangle((left, top), wide, high, facecolor="none", edgecolor=WINDOW, linewidth=2.2)
        axes.add_patch(frame)
    axes.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1))
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(title, fontsize=8)


def draw_convolution_steps(
    image: ArrayLike,
    kernel: ArrayLike,
    path: str | os.PathLike[str],
    *,
    padding: int = 0,
    stride: int = 1,
    bias: float = 0.0,
    steps: Sequence[int] = (0, 1, 2),
) -> None:
    """Draw how one filter over all channels makes single numbers of its output, to a PNG file.

    The first line shows the filter. Each other line is one output: the window in every channel with the sum of its
    products, and the output so far. Nothing is flipped: this is what networks call convolution, and
    `cnnjax.signal.correlate` computes.

    Args:
      image: [height, width, channels], or [height, width] for one channel.
      kernel: [height, width, channels], or [height, width].
      path: written whole or not at all.
      padding: zeros on every side.
      stride: step between windows.
      bias: added to every output.
      steps: numbers of the outputs to show, counted along the rows from 0.
    Raises:
      ValueError: shapes that do not fit each other, a step that the output does not have, or more than 400 numbers.
    """
    pixels, weights = (np.asarray(values, np.float32) for values in (image, kernel))
    pixels, weights = (values[..., None] if values.ndim == 2 else values for values in (pixels, weights))
    if pixels.ndim != 3 or weights.ndim != 3 or pixels.shape[2] != weights.shape[2]:
        raise ValueError(
            "image and kernel must be [height, width, channels] with the same channels, got "
            f"{np.shape(image)} and {np.shape(kernel)}"
        )
    if pixels.size > MOST_CELLS:
        raise ValueError(f"image must have at most {MOST_CELLS} numbers to be read, got {pixels.size}")
    result = np.asarray(signal.correlate(pixels, weights[..., None], padding=padding, stride=stride)) + bias
    output = result[..., 0]
    rows, columns = output.shape
    if not steps or not all(0 <= step < rows * columns for step in steps):
        raise ValueError(f"steps must be from 0 to {rows * columns - 1}, one or more, got {tuple(steps)}")
    padded = np.pad(pixels, [(padding, padding), (padding, padding), (0, 0)])
    channels, (high, wide) = pixels.shape[2], weights.shape[:2]
    title = f"{pixels.shape[0]}x{pixels.shape[1]}x{channels}, filter {high}x{wide}x{channels}, stride {stride}, "
    title += f"padding {padding}: {rows}x{columns}"
    size = 0.32 * padded.shape[1] + 0.4
    figure = new_figure(size * (channels + 1) + 0.8, (len(steps) + 1) * (0.32 * padded.shape[0] + 0.7) + 0.6, title)
    axes = figure.subplots(len(steps) + 1, channels + 1, squeeze=False)
    for channel in range(channels):
        _grid(axes[0, channel], weights[..., channel], f"filter, channel {channel + 1}", KERNEL)
    axes[0, channels].axis("off")
    axes[0, channels].text(0.5, 0.5, f"bias {_number(bias)}", ha="center", va="center", fontsize=9)
    for line, step in enumerate(steps, start=1):
        row, column = divmod(step, columns)
        top, left = row * stride, column * stride
        sums = (padded[top : top + high, left : left + wide] * weights).sum((0, 1))
        for channel in range(channels):
            title = f"sum of products: {_number(sums[channel])}"
            window = (top, left, high, wide)
            _grid(axes[line, channel], padded[..., channel], title, INPUT, border=padding, window=window)
        shown = np.where(np.arange(rows * columns).reshape(rows, columns) <= step, output, np.nan)
        terms = [_number(value) for value in (*sums, bias)]
        title = " + ".join(terms).replace("+ -", "- ") + f" = {_number(output[row, column])}"
        _grid(axes[line, channels], shown, title, OUTPUT, window=(row, column, 1, 1))
    save_figure(figure, path, dpi=110)


def draw_transposed_sum(values: ArrayLike, kernel: ArrayLike, path: str | os.PathLike[str], *, stride: int = 1) -> None:
    """Draw a transposed convolution as the sum of shifted copies of its kernel, to a PNG file.

    One panel for each value: the kernel times the value, at its place; the last one is their sum, which
    `cnnjax.signal.transpose_convolve` computes.

    Args:
      values: [height, width] or [length], at most 12 of them.
      kernel: of as many dimensions.
      path: written whole or not at all.
      stride: step between the copies.
    Raises:
      ValueError: more than 12 values, or dimensions that do not fit each other.
    """
    inputs, weights = (np.asarray(array, np.float32) for array in (values, kernel))
    if inputs.ndim != weights.ndim or inputs.ndim not in (1, 2) or inputs.size > 12:
        raise ValueError(
            "values and kernel must both be [length] or [height, width], with at most 12 values, got shapes "
            f"{inputs.shape} and {weights.shape}"
        )
    total = np.asarray(signal.transpose_convolve(inputs, weights, stride=stride))
    panels = []
    for place in np.ndindex(inputs.shape):
        copy = np.full(total.shape, np.nan, np.float32)
        copy[tuple(slice(stride * n, stride * n + size) for n, size in zip(place, weights.shape, strict=True))] = (
            inputs[place] * weights
        )
        panels.append((f"{_number(float(inputs[place]))} times the kernel", copy, INPUT))
    panels.append(("the sum", total, OUTPUT))
    high, wide = np.atleast_2d(total).shape
    across = 1 if high == 1 else min(len(panels), 5)
    down = -(-len(panels) // across)
    title = f"transposed convolution, stride {stride}"
    figure = new_figure(across * (0.42 * wide + 0.5) + 0.6, down * (0.42 * high + 0.55) + 0.5, title)
    for axes, panel in zip(figure.subplots(down, across, squeeze=False).flat, [*panels, *[None] * 12], strict=False):
        if panel is None:
            axes.axis("off")
        else:
            _grid(axes, np.atleast_2d(panel[1]), panel[0], panel[2])
    save_figure(figure, path, dpi=110)
