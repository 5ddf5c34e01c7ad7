"""What images have to look like for a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.preprocess import ChannelOrder, normalise
from cnnjax.models import ModelInfo

# Reading and resizing images takes Pillow, which those who only normalise do not need.
if TYPE_CHECKING:
    from cnnjax.data.transforms import ResizerName


def check_pixels(images: Any) -> None:
    """Refuse images that would be no error later, and not what was meant.

    Args:
      images: uint8[batch, height, width, channels], or floats from 0 to 255.
    Raises:
      ValueError: no image; floats, or truth values, that go to 1 alone.
    """
    if images.shape[:1] == (0,):
        raise ValueError(f"give one image or more, got shape {tuple(images.shape)}")
    # Whole numbers may be that dark.
    if isinstance(images, jax.core.Tracer) or jnp.issubdtype(images.dtype, jnp.integer):
        return
    if 0 < (largest := float(np.max(images))) <= 1:
        raise ValueError(
            f"images count from 0 to 255, got {images.dtype} of at most {largest:g}; multiply them by 255 or give uint8"
        )


class ImageFormat(NamedTuple):
    """What images have to look like for a network's weights.

    Attributes:
      size: height and width, pixels.
      mean, std: of each channel, to normalise pixels in [0, 1] with, in the order in which the network takes them.
      resize_size: of the shorter side before the centre is taken, pixels; None: the whole image is stretched.
      interpolation: of the resize, which is antialiased.
      channel_order: in which the network takes colours; images are "rgb" up to `normalise`.
      crop: False for networks that map images to images and are tested on whole ones: only the shorter side is resized.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channel_order: ChannelOrder = "rgb"
    crop: bool = True

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
        right_size = len(images.shape) == 4 and (images.shape[1:3] == self.size or not self.crop)
        if not right_size or images.shape[3] not in (1, len(self.mean)):
            raise ValueError(f"images must be [batch, {', '.join(map(str, shape))}], got {list(images.shape)}")
        check_pixels(images)
        return normalise(images, self.mean, self.std, self.channel_order)

    def pixels(self, images: Any) -> Any:
        """Return images that `normalise` gave as they were before: red first, from 0 to 1.

        Args:
          images: float[..., channels].
        """
        pixels = images * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
        return pixels[..., ::-1] if self.channel_order == "bgr" else pixels

    def prepare(self, pixels: np.ndarray, resizer: ResizerName = "auto") -> np.ndarray:
        """Return a picture of any size as the network was tested with, not normalised yet.

        Args:
          pixels: uint8[any height, any width, channels]; grey becomes colour and colour grey (ITU-R 601) where need be.
          resizer: library of the resize.
        Returns:
          uint8[height, width, channels].
        Raises:
          ValueError: the network takes images that are not square, or that have other channels than the picture.
        """
        # Not needed by those who only normalise.
        from PIL import Image

        channels = len(self.mean)
        if pixels.shape[-1] != channels:
            if channels not in (1, 3) or pixels.shape[-1] > 4:
                raise ValueError(
                    f"the network takes images of {channels} channels, and the picture has {pixels.shape[-1]}; give an "
                    f"array uint8[height, width, {channels}]"
                )
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(*pixels.shape[:2], channels)
        return self.transform(resizer=resizer)(pixels)

    def transform(
        self, image_size: int | None = None, resizer: ResizerName = "auto"
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return what brings an image of any size to the network's, uint8[height, width, channels] before and after.

        Args:
          image_size: height and width that the network gets, pixels, if they are not `size`: it is resized alike.
          resizer: library of the resize.
        Raises:
          ValueError: the network takes images that are not square.
        """
        from cnnjax.data.transforms import ResizeAndCentreCrop, ResizeShorterSide, Stretch

        height, width = self.size
        if height != width:
            raise ValueError(f"the network must take square images, got {height}x{width}")
        image_size = image_size or height
        if self.resize_size is None:
            return Stretch(image_size, self.interpolation, resizer)
        resize_size = round(image_size * self.resize_size / height)
        if not self.crop:
            return ResizeShorterSide(resize_size, self.interpolation, resizer)
        return ResizeAndCentreCrop(resize_size, image_size, self.interpolation, resizer)


def published_image_format(info: ModelInfo) -> ImageFormat:
    """Return what images the reference weights of a variant were trained with."""
    resize_size = info.resize_size or round(min(info.input_size) / 0.875)
    if info.task == "segmentation" and info.resize_size is None:
        return ImageFormat(info.input_size, info.mean, info.std, min(info.input_size), info.interpolation, crop=False)
    return ImageFormat(info.input_size, info.mean, info.std, resize_size, info.interpolation)


def run_image_format(config: Mapping[str, Any]) -> ImageFormat:
    """Return what images a run was trained with, from its ``config.json``, see `cnnjax.runs.reader.run_config`."""
    resolved = config["resolved"]
    size = resolved["image_size"]
    return ImageFormat(
        (size, size) if isinstance(size, int) else tuple(size),
        tuple(resolved["mean"]),
        tuple(resolved["std"]),
        # The oldest runs did not note them.
        resolved.get("resize_size"),
        resolved.get("interpolation", "bilinear"),
        resolved.get("channel_order", "rgb"),
    )
