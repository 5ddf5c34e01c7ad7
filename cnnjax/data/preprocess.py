"""What happens to a batch on the device, inside the compiled step: augmentation and normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnnjax.data.augment import Operation, augment

# In which a network takes colours; files and data sets have them red first.
ChannelOrder = Literal["rgb", "bgr"]


def normalise(
    images: Any, mean: Sequence[float], std: Sequence[float], channel_order: ChannelOrder = "rgb"
) -> jax.Array:
    """Return images as a network takes them: (images / 255 - mean) / std by channel.

    Grey images become as many equal channels as the network takes, which is what a colour network makes of them.

    >>> normalise(jnp.full((1, 1, 1, 1), 255, jnp.uint8), mean=(0.0, 0.5), std=(1.0, 0.5)).tolist()
    [[[[1.0, 1.0]]]]

    Args:
      images: uint8[batch, height, width, channels]; floats count from 0 to 255 too.
      mean, std: of each channel, for pixels in [0, 1], in the order in which the network takes them.
      channel_order: "bgr" turns the channels of the images round.
    Returns:
      float32[batch, height, width, len(mean)].
    Raises:
      ValueError: images of several channels, and not of ``len(mean)``.
    """
    if images.shape[-1] not in (1, len(mean)):
        grey = " or grey ones" if len(mean) > 1 else ""
        raise ValueError(f"the network takes images of {len(mean)} channels{grey}, got shape {images.shape}")
    shift, scale = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (mean, std))
    pixels = jnp.asarray(images).astype(jnp.float32) / 255
    if pixels.shape[-1] != len(mean):
        pixels = jnp.repeat(pixels, len(mean), axis=-1)
    if channel_order == "bgr":
        pixels = pixels[..., ::-1]
    return (pixels - shift) / scale


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Turn a batch of uint8 images into the float images that a network takes.

    Hashable, so that it can be closed over by a compiled step.

    Attributes:
      mean, std: of each channel, for pixels in [0, 1]; grey images become as many channels, see `normalise`.
      operations: augmentations, see `cnnjax.data.augment`, in the order in which they are applied.
      channel_order: in which the network takes colours, and in which ``mean`` and ``std`` are.

    Args:
      batch: ``image`` uint8[batch, height, width, channels], and what else belongs to the examples.
      keys: key[batch], one random key per example; None does not augment.
    Returns:
      The batch, with ``image`` float32[batch, height, width, len(mean)].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    operations: tuple[Operation, ...] = ()
    channel_order: ChannelOrder = "rgb"

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Augment (with keys) and normalise the images of ``batch``."""
        if keys is not None:
            batch = augment(batch, keys, self.operations)
        return {**batch, "image": normalise(batch["image"], self.mean, self.std, self.channel_order)}
