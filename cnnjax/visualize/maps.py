"""Attributions and class activation maps beside their images, and the classes that a network sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.visualize.canvas import (
    LINE,
    add_scale,
    limit_of,
    lines_of,
    new_figure,
    save_figure,
    show_image,
    show_values,
    wrapped,
)

# Share of the pixels of a gradient whose values the colours tell apart: a few are many times larger than all others.
SHOWN_SHARE = 0.995


def draw_maps(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    title: str,
    *,
    labels: Sequence[str] = (),
    size: float = 2.3,
) -> None:
    """Draw maps beside their images to a PNG file, one row for each image and one column for each method.

    Maps over positions are laid over the grey image; maps of pixels are summed over channels and drawn alone, since
    their detail is as fine as the image's. Each panel has a scale of its own, whose colour bar is beside it: maps with
    negative values are blue, white and red with 0 in the middle, all others start at 0. Of maps of pixels the colours
    end at the 99.5th percentile of magnitudes; arrows on the colour bar say so.

    Args:
      images: uint8[batch, height, width, 1 or 3], or float in [0, 1].
      maps: name -> float[batch, height, width] or float[batch, height, width, channels].
      path: written whole or not at all.
      title: above all.
      labels: of the images, drawn above each.
      size: inches of a panel.
    Raises:
      ValueError: maps of another size than the images.
    """
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    for name, found in maps.items():
        if found.shape[:3] != images.shape[:3]:
            raise ValueError(f"maps must be of the images' size {images.shape[:3]}, got {found.shape} for {name}")
    rows, columns = len(images), 1 + len(maps)
    tall = images.shape[1] / images.shape[2]
    shown = wrapped(labels, size)
    above = 0.2 + LINE * max(lines_of(shown), 1)
    figure = new_figure(size * (columns + 0.22 * len(maps)), (size * tall + above) * rows + 0.4, title)
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, (line, image) in enumerate(zip(panels, images, strict=True)):
        show_image(line[0], image)
        line[0].set_title(shown[number] if shown else "", fontsize=9)
        scaled = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        # Light, so that the colours above are those of the colour bar.
        grey = 0.45 + 0.55 * scaled.mean(-1, keepdims=True)
        for axes, (name, found) in zip(line[1:], maps.items(), strict=True):
            values = np.asarray(found[number], np.float32)
            fine = values.ndim == 3
            values = values.sum(-1) if fine else values
            signed = bool((values < 0).any())
            limit = limit_of(values, SHOWN_SHARE if fine else 1.0)
            if not fine:
                show_image(axes, grey)
            drawn = show_values(axes, values, limit, signed, alpha=1.0 if fine else 0.65)
            add_scale(figure, axes, drawn, values, shrink=0.8, aspect=14, pad=0.02)
            axes.set_title(name, fontsize=9)
    save_figure(figure, path)


def draw_predictions(
    images: Sequence[np.ndarray],
    names: Sequence[Sequence[str]],
    values: Sequence[Sequence[float]],
    path: str | os.PathLike[str],
    title: str = "",
    *,
    labels: Sequence[str] = (),
    probabilities: bool = True,
) -> None:
    """Draw each image, and beside it a bar for each of its classes or numbers, to a PNG file.

    Args:
      images: [height, width, 1 or 3] each, uint8 or float in [0, 1].
      names: of each image's classes, the best first, or of its numbers.
      values: of these.
      path: written whole or not at all.
      title: above all.
      labels: of the images, drawn above each.
      probabilities: the values are probabilities, from 0 to 1, rather than predicted numbers.
    """
    shown = wrapped(labels, 3.2)
    figure = new_figure(9, max(len(images) * (2.25 + LINE * max(lines_of(shown), 1)), 3), title)
    panels = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.6))
    for number, (left, right) in enumerate(panels):
        show_image(left, images[number])
        left.set_title(shown[number] if shown else "", fontsize=9)
        bars = right.barh(range(len(names[number])), values[number], color="tab:blue")
        texts = [f"{100 * value:.1f} %" if probabilities else f"{value:.4g}" for value in values[number]]
        right.bar_label(bars, texts, padding=3)
        right.set_yticks(range(len(names[number])), names[number])
        right.invert_yaxis()
        if probabilities:
            right.set(xlim=(0, 1.15))
            right.set_xticks([0, 0.25, 0.5, 0.75, 1])
        else:
            right.margins(x=0.3)
        right.spines[["top", "right"]].set_visible(False)
        if number == len(images) - 1:
            right.set_xlabel("probability" if probabilities else "predicted value")
    save_figure(figure, path, dpi=120)
