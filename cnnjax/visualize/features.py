"""Filters, feature maps, and the patches that excite channels, each labelled with its layer and channel."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.visualize.canvas import add_scale, limit_of, new_figure, save_figure, show_image, show_values


def draw_filters(
    kernels: np.ndarray, path: str | os.PathLike[str], title: str, *, most: int = 64, columns: int = 8
) -> None:
    """Draw the filters of a convolution to a PNG file, each labelled with its output channel.

    Filters over three channels are drawn in colour, grey where a weight is 0; the scale, one for all filters, is in the
    title. All others are drawn with a colour bar, blue below 0 and red above: filters over one channel as one panel,
    and of filters over more channels each row holds one output channel and each column one input channel.

    Args:
      kernels: float[height, width, inputs, outputs], as the networks here hold them.
      path: written whole or not at all.
      title: above all.
      most: filters at most; of more, the first are drawn, and the title says so.
      columns: filters in a row.
    """
    kernels = np.asarray(kernels, np.float32)
    inputs, outputs = kernels.shape[2:]
    count = min(outputs, most)
    limit = limit_of(kernels)
    said = title if count == outputs else f"{title}, the first {count} of {outputs}"
    deep = inputs not in (1, 3)
    if deep:
        columns, count = min(inputs, 12), min(outputs, 12)
        said = f"{title}, outputs 0 to {count - 1} from inputs 0 to {columns - 1}"
    columns = columns if deep else min(columns, count)
    rows = count if deep else math.ceil(count / columns)
    figure = new_figure(0.75 * columns + 1.2, 0.93 * rows + 0.9, said)
    panels = figure.subplots(rows, columns, squeeze=False)
    drawn = None
    for place, axes in enumerate(panels.flat):
        axes.axis("off")
        row, column = divmod(place, columns)
        channel, source = (row, column) if deep else (place, 0)
        if channel >= count:
            continue
        if inputs == 3:
            show_image(axes, kernels[..., channel] / (2 * limit) + 0.5)
        else:
            drawn = show_values(axes, kernels[..., source, channel], limit, True)
        axes.set_title(f"{source}→{channel}" if deep else str(channel), fontsize=7, pad=2)
    if drawn is None:
        figure.suptitle(f"{said}\nblack {-limit:.2g}, grey 0, white {limit:.2g}, in each colour", fontsize=10)
    else:
        add_scale(figure, panels, drawn, kernels, shrink=min(0.8, 3 / rows), aspect=20, label="weight")
    save_figure(figure, path, dpi=120)


def draw_feature_maps(
    maps: Mapping[str, np.ndarray], path: str | os.PathLike[str], title: str, *, count: int = 12
) -> None:
    """Draw feature maps of one image to a PNG file: a row of channels for each layer, with one scale for each row.

    Layers with more channels are drawn as an evenly spaced sample. Values without a sign start at 0; with a sign, 0 is
    white, blue is below and red above.

    Args:
      maps: path of the layer -> float[height, width, channels].
      path: written whole or not at all.
      title: above all.
      count: channels of a layer at most.
    """
    if not maps:
        raise ValueError("maps must hold at least one layer, got none")
    columns = min(count, max(found.shape[-1] for found in maps.values()))
    figure = new_figure(1.05 * columns + 2.0, 1.25 * len(maps) + 0.6, title)
    panels = figure.subplots(len(maps), columns, squeeze=False)
    for line, (layer, found) in zip(panels, maps.items(), strict=True):
        values = np.asarray(found, np.float32)
        total = values.shape[-1]
        channels = np.unique(np.linspace(0, total - 1, min(columns, total)).round().astype(int))
        limit, signed = limit_of(values), bool((values < 0).any())
        for axes in line:
            axes.axis("off")
        for axes, channel in zip(line, channels, strict=False):
            drawn = show_values(axes, values[..., channel], limit, signed)
            axes.set_title(str(channel), fontsize=7, pad=2)
        height, width = values.shape[:2]
        line[0].text(
            -0.12, 0.5, f"{layer}\n{height}x{width}x{total}", transform=line[0].transAxes, ha="right", va="center",
            fontsize=8,
        )  # fmt: skip
        add_scale(figure, list(line), drawn, values, shrink=0.9, aspect=12, pad=0.01)
    save_figure(figure, path)


def draw_projections(
    patches: Sequence[Sequence[np.ndarray]],
    projections: Sequence[Sequence[np.ndarray]],
    channels: Sequence[int],
    path: str | os.PathLike[str],
    title: str,
) -> None:
    """Draw patches that excite channels most, each beside its projection back to pixels, to a PNG file.

    A row holds one channel, the strongest patch first. Projections are drawn alone, grey where they are 0; each has a
    scale of its own, since only their form is compared.

    Source: Zeiler and Fergus 2013, arXiv:1311.2901, figure 2.

    Args:
      patches: of each channel, [height, width, 1 or 3] each, uint8 or float in [0, 1].
      projections: of the same sizes, float around 0, such as `cnnjax.explain.deconvnet` returns.
      channels: their numbers.
      path: written whole or not at all.
      title: above all.
    """
    count = max(len(row) for row in patches)
    largest = max(max(patch.shape[:2]) for row in patches for patch in row)
    figure = new_figure(2.1 * count + 0.5, 1.15 * len(patches) + 0.9, title)
    panels = figure.subplots(len(patches), 2 * count, squeeze=False)
    for row, line in enumerate(panels):
        for axes in line:
            axes.axis("off")
        for rank, (patch, projection) in enumerate(zip(patches[row], projections[row], strict=True)):
            show_image(line[2 * rank], patch)
            scaled = np.asarray(projection, np.float32) / (2 * limit_of(projection)) + 0.5
            show_image(line[2 * rank + 1], scaled)
            for axes in line[2 * rank : 2 * rank + 2]:
                # Patches that the border of the image cut are drawn at the scale of the others.
                axes.set(xlim=(-0.5, largest - 0.5), ylim=(largest - 0.5, -0.5))
            if row == 0:
                line[2 * rank].set_title("patch", fontsize=7, pad=2)
                line[2 * rank + 1].set_title("projected", fontsize=7, pad=2)
        line[0].text(
            -0.15, 0.5, f"channel\n{channels[row]}", transform=line[0].transAxes, ha="right", va="center", fontsize=8
        )
    save_figure(figure, path, dpi=120)
