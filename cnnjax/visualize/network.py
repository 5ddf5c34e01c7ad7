"""A network as a row of blocks."""

from __future__ import annotations

import math
import os

from cnnjax.models.summary import Summary
from cnnjax.visualize.canvas import new_figure, save_figure

# Fill and edge of a block by what its layer does; told apart by lightness too.
COLOURS = (
    (("conv",), "#4477aa", "convolution"),
    (("pool",), "#ccbb44", "pooling"),
    (("dense", "head", "classifier"), "#aa3377", "dense layer"),
    (("norm",), "#bbbbbb", "normalisation"),
)
OTHER, IMAGE = "#66ccee", "#ffffff"


def _colour(layer: str) -> tuple[str, str]:
    """Return the colour of a kind of layer, and what the legend calls it."""
    for words, colour, name in COLOURS:
        if any(word in layer.lower() for word in words):
            return colour, name
    return OTHER, "several layers"


def _short(count: int) -> str:
    """Return a number in a few characters."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def draw_network(summary: Summary, path: str | os.PathLike[str], title: str) -> None:
    """Draw a network from left to right to a PNG file: each layer as a block, with its size and its parameters.

    A block is as high as its output has rows, to scale, and its width grows with the square root of the channels, to
    scale too. Outputs without positions are narrow columns whose height grows with the square root of their length.

    Args:
      summary: what to draw, see `cnnjax.summary`; its ``depth=1`` gives the stages of deep networks.
      path: written whole or not at all.
      title: above all.
    Raises:
      ValueError: more than 40 layers, which nobody could read.
    """
    from matplotlib.patches import Patch, Rectangle

    if len(summary.rows) > 40:
        raise ValueError(f"a diagram holds at most 40 layers, got {len(summary.rows)}; take summary(..., depth=1)")
    blocks = [("image", "", summary.input_shape, 0)]
    blocks += [(row.path, row.layer, row.output_shape, row.params) for row in summary.rows]
    tallest = max([shape[1] for _, _, shape, _ in blocks if len(shape) == 4], default=1)
    longest = max([shape[-1] for _, _, shape, _ in blocks if len(shape) == 2], default=1)
    widest = max([shape[-1] for _, _, shape, _ in blocks if len(shape) == 4], default=1)
    pitch = 1.15
    figure = new_figure(max(pitch * len(blocks) + 0.6, 6), 4.3, title)
    axes = figure.subplots()
    seen: dict[str, str] = {}
    before = 0.0
    for place, (name, layer, shape, params) in enumerate(blocks):
        colour, kind = _colour(layer) if place else (IMAGE, "")
        if kind:
            seen[kind] = colour
        if len(shape) == 4:
            height, width = shape[1] / tallest, 0.85 * math.sqrt(shape[-1] / widest)
            size = "x".join(map(str, shape[1:]))
        else:
            height, width = math.sqrt(shape[-1] / longest), 0.08
            size = str(shape[-1])
        # Hairlines would vanish.
        height, width = max(height, 0.012), max(width, 0.03)
        middle = place * pitch
        axes.add_patch(
            Rectangle((middle - width / 2, (1 - height) / 2), width, height, facecolor=colour, edgecolor="#222222")
        )
        axes.text(middle, 1.06, name.replace("/", "\n"), ha="center", va="bottom", fontsize=7)
        kind_of = "\n".join(layer.rsplit(" ", 1)) if len(layer) > 12 else layer
        below = [size, *([kind_of] if kind_of else []), *([f"{_short(params)} parameters"] if params else [])]
        axes.text(middle, -0.06, "\n".join(below).replace(" parameters", "\nparameters"), ha="center", va="top",
                  fontsize=7)  # fmt: skip
        if place:
            axes.annotate(
                "", (middle - width / 2, 0.5), (before, 0.5), arrowprops={"arrowstyle": "->", "color": "#777777"}
            )
        before = middle + width / 2
    axes.set(xlim=(-0.6 * pitch, (len(blocks) - 0.4) * pitch), ylim=(-0.62, 1.32))
    axes.axis("off")
    handles = [Patch(facecolor=colour, edgecolor="#222222", label=kind) for kind, colour in seen.items()]
    axes.legend(handles=handles, loc="lower left", ncols=len(handles), fontsize=7, frameon=False)
    axes.text(
        (len(blocks) - 0.4) * pitch, -0.6,
        f"{summary.params:,} parameters, {summary.macs:,} multiply-adds\n"
        "height: rows; width: square root of channels; columns: square root of length",
        ha="right", va="bottom", fontsize=7,
    )  # fmt: skip
    save_figure(figure, path, dpi=120)
