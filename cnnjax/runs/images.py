"""What images have to look like for a network's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from cnnjax.data.preprocess import normalise


def check_pixels(images: Any) -> None:
    """Refuse images that would be no error later, and not what was meant.

    Args:
      images: uint8[batch, height, width, channels], or floats from 0 to 255.
    Raises:
      ValueError: no image, or floats that go to 1 alone.
    """
    if images.shape[:1] == (0,):
        raise ValueError(f"give one image or more, got shape {tuple(images.shape)}")
    if isinstance(images, jax.core.Tracer) or not np.issubdtype(images.dtype, np.floating):
        return
    if 0 < (largest := float(np.max(images))) <= 1:
        raise ValueError(
            f"images count from 0 to 255, got floats of at most {largest:g}; multiply them by 255, or give uint8"
        )


class ImageFormat(NamedTuple):
    """What images have to look like for a network's weights.

    Attributes:
      size: height and width, pixels.
      mean, std: of each channel, to normalise pixels in [0, 1] with.
      label_names: of the classes, where the weights are a run's.
      resize_size: of the shorter side before the centre is taken, pixels; None: the whole image is stretched.
      interpolation: of the resize.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...] | None = None
    resize_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def normalise(self, images: Any) -> jax.Array:
        """Return what the network takes, see `cnnjax.data.normalise`.

        Args:
          images: uint8[batch, height, width, channels], of this `size`; grey ones become coloured.
        Returns:
          float32[batch, height, width, channels].
        Raises:
          ValueError: images of another size, or with other channels; see `check_pixels`.
        """
        shape = (*self.size, len(self.mean))
        if len(images.shape) != 4 or images.shape[1:3] != self.size or images.shape[3] not in (1, len(self.mean)):
            raise ValueError(f"images must be [batch, {', '.join(map(str, shape))}], got {list(images.shape)}")
        check_pixels(images)
        return normalise(images, self.mean, self.std)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return a picture of any size as the network was tested with, not normalised yet.

        Args:
          pixels: uint8[any height, any width, 1 or 3]; grey becomes colour and colour grey (ITU-R 601) where need be.
        Returns:
          uint8[height, width, channels].
        Raises:
          ValueError: the network takes images that are not square.
        """
        # Not needed by those who only normalise.
        from PIL import Image

        from cnnjax.data.transforms import ResizeAndCentreCrop, Stretch

        channels = len(self.mean)
        if pixels.shape[-1] != channels:
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(*pixels.shape[:2], channels)
        height, width = self.size
        if height != width:
            raise ValueError(f"the network must take square images, got {height}x{width}")
        if self.resize_size is None:
            return Stretch(height, self.interpolation)(pixels)
        return ResizeAndCentreCrop(self.resize_size, height, self.interpolation)(pixels)


def run_image_format(config: Mapping[str, Any]) -> ImageFormat:
    """Return what images a run was trained with, from its ``config.json``, see `cnnjax.runs.reader.run_config`."""
    resolved = config["resolved"]
    size = resolved["image_size"]
    return ImageFormat(
        (size, size) if isinstance(size, int) else tuple(size),
        tuple(resolved["mean"]),
        tuple(resolved["std"]),
        None if resolved["label_names"] is None else tuple(resolved["label_names"]),
        # The oldest runs did not note them.
        resolved.get("resize_size"),
        resolved.get("interpolation", "bilinear"),
    )
