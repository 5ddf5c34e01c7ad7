"""Networks on images of any size, tile by tile, without seams and in bounded memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from cnnjax.models import create_model, model_info


class Denoiser:
    """A DnCNN with its weights, which denoises images of any size in tiles.

    A value of the output depends on what lies up to ``depth`` pixels around it (one for each 3x3 convolution), so
    tiles that overlap by that much leave no seams: the result is that of the whole image at once, up to rounding.

    Args:
      name: the variant.
      variables: its weights.
      tile: pixels, height and width, denoised at a time.
    Raises:
      ValueError: no DnCNN, or a tile without pixels.
    """

    def __init__(self, name: str, variables: Any, tile: int = 256) -> None:
        info = model_info(name)
        if info.family != "dncnn":
            raise ValueError(f"model must be a DnCNN (dncnn17_grey, dncnn20_colour, ...), got {name!r}")
        if tile < 1:
            raise ValueError(f"tile must be at least 1, got {tile}")
        model = create_model(name)
        self.channels = info.channels
        self.margin: int = model.depth
        self.tile = tile
        self._variables = variables
        self._apply = jax.jit(model.apply)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Denoise float32[height, width, channels], pixels in [0, 1] with noise beyond; the same shape comes out.

        Raises:
          ValueError: another number of channels than the network's, or no pixels.
        """
        if image.ndim != 3 or image.shape[-1] != self.channels or image.size == 0:
            advice = (
                "make the image grey, or denoise each channel by itself (--each-channel)"
                if self.channels == 1
                else "take a grey network"
            )
            raise ValueError(f"the network takes images of {self.channels} channels, got shape {image.shape}; {advice}")
        out = np.empty(image.shape, np.float32)
        rows, columns = (tiles(length, self.tile, self.margin) for length in image.shape[:2])
        for row in rows:
            for column in columns:
                window = image[None, row.window, column.window].astype(np.float32)
                result = np.asarray(self._apply(self._variables, window))[0]
                out[row.place, column.place] = result[row.kept, column.kept]
        return out

    def each_channel(self, image: np.ndarray) -> np.ndarray:
        """Denoise each channel of float32[height, width, channels] by itself with a grey network."""
        return np.concatenate([self(image[..., index : index + 1]) for index in range(image.shape[-1])], -1)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Along one dimension: what the network gets to see, which part of its output is kept, and where that goes."""

    window: slice
    kept: slice
    place: slice


def tiles(length: int, tile: int, margin: int) -> list[Tile]:
    """Divide ``length`` pixels so that windows have one size, and no kept pixel is nearer to a cut than ``margin``."""
    size = min(tile + 2 * margin, length)
    found = []
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        # Windows at the ends are moved inwards: there the network meets the border of the image, as it should.
        low = min(max(start - margin, 0), length - size)
        found.append(Tile(slice(low, low + size), slice(start - low, stop - low), slice(start, stop)))
    return found
