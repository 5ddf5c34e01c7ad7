"""A network as blocks: in one line where it is a chain, and with its branches, shortcuts and levels where it is not."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.models.summary import Row, Summary
from cnnjax.visualize.canvas import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Fill of a block by what its layer does; told apart by lightness too.
COLOURS = (
    (("convtranspose",), "#88ccee", "transposed convolution"),
    (("conv",), "#4477aa", "convolution"),
    (("pool",), "#ccbb44", "pooling"),
    (("dense", "classifier"), "#aa3377", "dense layer"),
    (("norm",), "#bbbbbb", "normalisation"),
    (("dropout", "stochasticdepth"), "#222222", "dropout"),
    (("add", "concatenate", "scale"), "#ffffff", "addition (+), concatenation (C), product (x)"),
)
OTHER, ACTIVATION, IMAGE = "#66ccee", "#ee7733", "#ffffff"
JOINTS = {"add": "+", "concatenate": "C", "scale": "x"}
# More could not be read.
MOST_BLOCKS, MOST_IN_CHAIN, MOST_COLUMNS = 160, 30, 24


@dataclasses.dataclass
class _Block:
    """A layer with the activation, normalisation and dropout that follow it alone.

    Attributes:
      row: the layer's.
      following: the others'.
      inputs: places of the blocks it takes its inputs from, -1 for the image.
    """

    row: Row
    following: list[Row]
    inputs: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [row.output_shape for row in (self.row, *self.following) if row.layer != "flatten"]
        # A network that begins with flattening has nothing before it.
        return shapes[-1] if shapes else self.row.output_shape

    @property
    def params(self) -> int:
        return self.row.params + sum(row.params for row in self.following)


def draw_network(summary: Summary, path: str | os.PathLike[str], title: str) -> None:
    """Draw a network to a PNG file: each layer as a block, with its size and its parameters.

    Activations, normalisations and dropout are stripes at the end of the block that they follow. A network whose layers
    form a chain is one line, in which a block is as high as its output has rows, to scale, and its width grows with the
    square root of the channels; outputs without positions are narrow columns whose height grows with the square root of
    their length. Other networks have one line of equal blocks for each stage, with branches one below the other and
    shortcuts as arcs; where there is a decoder, its lines stand to the right of the encoder's of the same resolution.

    Args:
      summary: what to draw, see `cnnjax.summary`; its ``depth=1`` gives the stages of deep networks.
      path: written whole or not at all.
      title: above all.
    Raises:
      ValueError: more than 160 blocks, which nobody could read.
    """
    blocks = _blocks(summary)
    if len(blocks) > MOST_BLOCKS:
        raise ValueError(f"a diagram holds at most {MOST_BLOCKS} blocks, got {len(blocks)}; take summary(..., depth=1)")
    heading = f"{title}\n{summary.params:,} parameters, {summary.macs:,} multiply-adds"
    if len(blocks) <= MOST_IN_CHAIN and all(block.inputs == (place - 1,) for place, block in enumerate(blocks)):
        _draw_chain(summary, blocks, path, heading)
    else:
        _draw_lines(blocks, path, heading)


def _blocks(summary: Summary) -> list[_Block]:
    """Return the layers, each with what follows it alone."""
    uses = collections.Counter(source for row in summary.rows for source in row.inputs)
    blocks: list[_Block] = []
    block_of: dict[int, int] = {-1: -1}
    for place, row in enumerate(summary.rows):
        apart = row.macs or "pool" in row.layer or row.layer in JOINTS or len(row.inputs) != 1
        before = block_of[row.inputs[0]] if row.inputs else -1
        if apart or before < 0 or uses[row.inputs[0]] > 1:
            inputs = tuple(sorted({block_of[source] for source in row.inputs}))
            blocks.append(_Block(row, [], inputs))
            block_of[place] = len(blocks) - 1
        else:
            blocks[before].following.append(row)
            block_of[place] = before
    return blocks


def _colour(layer: str) -> tuple[str, str]:
    """Return the colour of a kind of layer, and what the legend calls it."""
    for words, colour, name in COLOURS:
        if any(word in layer.lower() for word in words):
            return colour, name
    return (ACTIVATION, "activation") if layer.islower() else (OTHER, "several layers")


def _short(count: int) -> str:
    """Return a number in a few characters."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:])) if len(shape) == 4 else str(shape[-1])


def _draw_block(
    axes: Axes, block: _Block, middle: tuple[float, float], size: tuple[float, float], seen: dict[str, str]
) -> None:
    """Draw a block with the stripes of what follows it, and note the kinds of layers seen."""
    from matplotlib.patches import Circle, Rectangle

    rows = [block.row, *(row for row in block.following if row.layer != "flatten")]
    (x, y), (width, height) = middle, size
    style: dict[str, Any] = {
        "edgecolor": "#222222",
        "linewidth": 0.8,
        "linestyle": "--" if block.row.training_only else "-",
    }
    colours = []
    for row in rows:
        colour, kind = _colour(row.layer)
        seen[kind] = colour
        colours.append(colour)
    if block.row.layer in JOINTS:
        axes.add_patch(Circle((x, y), 0.13, facecolor=colours[0], zorder=3, **style))
        axes.text(x, y, JOINTS[block.row.layer], ha="center", va="center", fontsize=8, zorder=4)
        left = x + 0.15
    else:
        corner = (x - width / 2, y - height / 2)
        axes.add_patch(Rectangle(corner, width, height, facecolor=colours[0], zorder=3, **style))
        left = x + width / 2
    high = height if block.row.layer not in JOINTS else 0.26
    for number, colour in enumerate(colours[1:]):
        axes.add_patch(
            Rectangle((left + 0.06 * number, y - high / 2), 0.06, high, facecolor=colour, zorder=3, edgecolor="#222222",
                      linewidth=0.5)
        )  # fmt: skip


def _words(block: _Block) -> list[str]:
    """Return what stands below a block."""
    words = [_size(block.shape)]
    if block.row.layer not in JOINTS:
        layer = block.row.layer
        words.append("\n".join(layer.rsplit(" ", 1)) if len(layer) > 12 else layer)
    words += [row.layer for row in block.following if row.layer not in ("BatchNorm", "flatten")]
    if block.params:
        words.append(f"{_short(block.params)}\nparameters")
    return words


def _legend(axes: Axes, seen: dict[str, str], columns: int) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, edgecolor="#222222", label=kind) for kind, colour in seen.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=columns, fontsize=7, frameon=False)


def _draw_chain(summary: Summary, blocks: list[_Block], path: str | os.PathLike[str], heading: str) -> None:
    """Draw a network from left to right, to scale."""
    image = _Block(Row("image", "", summary.input_shape, 0, 0, None), [], ())
    everything = [image, *blocks]
    shapes = [block.row.output_shape for block in everything]
    tallest = max([shape[1] for shape in shapes if len(shape) == 4], default=1)
    longest = max([shape[-1] for shape in shapes if len(shape) == 2], default=1)
    widest = max([shape[-1] for shape in shapes if len(shape) == 4], default=1)
    pitch = 1.15
    figure = new_figure(max(pitch * len(everything) + 0.6, 6), 4.8, heading)
    axes = figure.subplots()
    seen: dict[str, str] = {}
    before = 0.0
    for place, block in enumerate(everything):
        shape = block.row.output_shape
        if len(shape) == 4:
            height, width = shape[1] / tallest, 0.7 * math.sqrt(shape[-1] / widest)
        else:
            height, width = math.sqrt(shape[-1] / longest), 0.08
        # Hairlines would vanish.
        height, width = max(height, 0.012), max(width, 0.03)
        middle = place * pitch
        if place:
            _draw_block(axes, block, (middle, 0.5), (width, height), seen)
            axes.annotate(
                "", (middle - width / 2, 0.5), (before, 0.5), arrowprops={"arrowstyle": "->", "color": "#777777"}
            )
        else:
            from matplotlib.patches import Rectangle

            axes.add_patch(
                Rectangle((-width / 2, (1 - height) / 2), width, height, facecolor=IMAGE, edgecolor="#222222")
            )
        axes.text(middle, 1.06, block.row.path.replace("/", "\n"), ha="center", va="bottom", fontsize=7)
        words = _words(block) if place else [_size(shape)]
        axes.text(middle, -0.06, "\n".join(words), ha="center", va="top", fontsize=7)
        before = middle + width / 2 + 0.06 * len([row for row in block.following if row.layer != "flatten"])
    axes.set(xlim=(-0.6 * pitch, (len(everything) - 0.4) * pitch), ylim=(-0.7, 1.32))
    axes.axis("off")
    _legend(axes, seen, len(seen))
    axes.text(
        (len(everything) - 0.4) * pitch, -0.68,
        "height: rows; width: square root of channels; columns: square root of length",
        ha="right", va="bottom", fontsize=7,
    )  # fmt: skip
    save_figure(figure, path, dpi=120)


def _line_name(path: str) -> str:
    """Return the stage that a path is in."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 1 and parts[1].startswith("stage") else parts[0]


def _lines(blocks: list[_Block]) -> list[tuple[str, list[int]]]:
    """Return the stages in the order of computation: their names and their blocks."""
    lines: list[tuple[str, list[int]]] = []
    for place, block in enumerate(blocks):
        # What is in the network itself, such as a pooling between stages, ends the line before.
        name = _line_name(block.row.path) or (lines[-1][0] if lines else "")
        if block.row.path in ("encoder", "decoder"):
            name = lines[-1][0] if lines else name
        if not lines or lines[-1][0] != name:
            lines.append((name, []))
        lines[-1][1].append(place)
    return lines


def _arrange(blocks: list[_Block], members: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return column and lane of each block of a line: columns follow the computation, branches get lanes."""
    places: dict[int, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    reach: dict[int, int] = {}
    for member in members:
        inside = [source for source in blocks[member].inputs if source in places]
        column = max((places[source][0] for source in inside), default=0) + 1
        if len(blocks[member].inputs) > 1:
            lane = min((places[source][1] for source in inside), default=0)
        else:
            lane = places[inside[0]][1] if inside else 0
            # A lane that goes on from here already is another branch's.
            while reach.get(lane, 0) >= column:
                lane += 1
        while (column, lane) in taken:
            lane += 1
        places[member] = (column, lane)
        taken.add((column, lane))
        reach[lane] = max(reach.get(lane, 0), column)
    return places


def _draw_lines(blocks: list[_Block], path: str | os.PathLike[str], heading: str) -> None:
    """Draw a line for each stage, with branches and shortcuts."""
    lines = []
    for name, members in _lines(blocks):
        for start in range(0, len(members), MOST_COLUMNS * 2):
            part = members[start : start + MOST_COLUMNS * 2]
            lines.append((name if start == 0 else f"{name} (goes on)", part, _arrange(blocks, part)))
    wide, high, gap = 1.15, 1.15, 0.55
    # Arrows pass behind what is written.
    over: dict[str, Any] = {"zorder": 5, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.85}}
    heights = [high * (max(lane for _, lane in places.values()) + 1) + gap for _, _, places in lines]
    columns = [max(column for column, _ in places.values()) for _, _, places in lines]
    levels = _levels(blocks, lines)
    count = max(level for level, _ in levels) + 1
    tallest = [max(heights[n] for n, (level, _) in enumerate(levels) if level == row) for row in range(count)]
    left_half = max((columns[n] + 1.2 for n, (_, right) in enumerate(levels) if not right), default=0)
    right_half = max((columns[n] + 1.2 for n, (_, right) in enumerate(levels) if right), default=0)
    width, height = wide * (left_half + right_half) + 0.4, sum(tallest) + 1.3
    figure = new_figure(max(width, 8), height, heading)
    axes = figure.subplots()
    seen: dict[str, str] = {}
    middles: dict[int, tuple[float, float]] = {}
    for number, (name, members, places) in enumerate(lines):
        level, right = levels[number]
        x0 = wide * left_half if right else 0.0
        y0 = -sum(tallest[:level]) - 0.75
        for member in members:
            column, lane = places[member]
            middles[member] = (x0 + wide * (column + 0.15), y0 - high * lane)
        entry = (x0 + 0.45 * wide, y0)
        axes.text(x0, y0 + 0.62, name, fontsize=10, weight="bold", va="bottom")
        outside = sorted({source for member in members for source in blocks[member].inputs if source not in places})
        for offset, source in enumerate(outside):
            point = (entry[0], entry[1] - 0.34 * offset)
            said = "image"
            if source >= 0:
                said = "/\n".join(blocks[source].row.path.rsplit("/", 1)) or blocks[source].row.layer
            axes.plot(*point, "o", color="#777777", markersize=4)
            axes.text(point[0] - 0.09, point[1], said, ha="right", va="center", fontsize=5.5, color="#555555")
            if right and source in middles and middles[source][0] < x0:
                _arrow(axes, middles[source], point, 0.0, "#99bbdd")
            for member in members:
                if source in blocks[member].inputs:
                    far = middles[member][0] - point[0] > 1.2 * wide and middles[member][1] == y0
                    _arrow(axes, point, middles[member], -0.25 if far else 0.0)
        for member in members:
            block = blocks[member]
            _draw_block(axes, block, middles[member], (0.46, 0.36), seen)
            label = block.row.path.removeprefix(_line_name(block.row.path)).removeprefix("/")
            if block.row.layer not in JOINTS and label:
                axes.text(middles[member][0], middles[member][1] + 0.2, label, ha="center", va="bottom", fontsize=5.5,
                          **over)  # fmt: skip
            words = "\n".join(_words(block)).replace("\nparam", " param")
            axes.text(middles[member][0], middles[member][1] - 0.22, words, ha="center", va="top", fontsize=5.5, **over)
            for source in block.inputs:
                if source in places:
                    far = places[member][0] - places[source][0] > 1 and places[source][1] == places[member][1]
                    _arrow(axes, middles[source], middles[member], -0.25 if far else 0.0)
    axes.set(xlim=(-0.75, wide * (left_half + right_half)), ylim=(-sum(tallest) - 0.1, 0.15))
    axes.axis("off")
    axes.set_aspect("equal")
    _legend(axes, seen, min(len(seen), 4))
    save_figure(figure, path, dpi=110)


def _levels(blocks: list[_Block], lines: Sequence[tuple[str, list[int], object]]) -> list[tuple[int, bool]]:
    """Return for each line at which height it is drawn, from 0 at the top, and whether in the right half."""
    decoder = next((number for number, (name, _, _) in enumerate(lines) if name.startswith("decoder")), None)
    if decoder is None:
        return [(number, False) for number in range(len(lines))]
    levels = []
    # From the coarsest level on the way leads up again.
    for number in range(len(lines)):
        level = number if number < decoder else max(2 * decoder - 2 - number, 0)
        levels.append((level, number >= decoder))
    # Lines that would share a place, such as a head's beside the finest decoder's, go on above.
    for number in range(decoder + 1, len(lines)):
        if levels[number] == levels[number - 1]:
            levels = [(level + 1, right) for level, right in levels]
            levels[number] = (0, True)
    return levels


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float, colour: str = "#777777"
) -> None:
    axes.annotate(
        "", end, start,
        arrowprops={
            "arrowstyle": "->", "color": colour, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 12, "shrinkB": 14,
            "linewidth": 0.8,
        },
        zorder=2,
    )  # fmt: skip
