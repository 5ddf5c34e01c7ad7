"""Test-time augmentation: what a network says of an image, averaged over views of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

ViewsName = Literal["none", "mirror", "mirror-shift"]
VIEWS = get_args(ViewsName)


def over_views(
    outputs_of: Callable[[jax.Array], jax.Array], images: jax.Array, views: ViewsName = "mirror"
) -> jax.Array:
    """Return the mean of a network's outputs over views of each image.

    - ``none``: the image alone.
    - ``mirror``: the image and its mirror image, left to right.
    - ``mirror-shift``: half of it as ``mirror``; the other half is the mean over the image shifted by one pixel to the
      left and up, and to the right and down, with the border reflected, and the mirror images of these: six views.

    The views pass the network one after the other, so that memory is that of a single one. Harmful where left and right
    mean something, or for outputs that are places in the image.

    Source: Jordan 2024, arXiv:2404.00498, section 3 (test-time augmentation).

    Args:
      outputs_of: the network: images to float[batch, ...], such as logits.
      images: [batch, height, width, channels] of the type that the network takes; two pixels or more for shifts.
      views: one of the above.
    Returns:
      The type and shape of what ``outputs_of`` returns.
    Raises:
      ValueError: an unknown name.
    """
    if views not in VIEWS:
        raise ValueError(f"test-time augmentation must be one of {', '.join(VIEWS)}, got {views!r}")
    if views == "none":
        return outputs_of(images)

    def mirrored(images: jax.Array) -> jax.Array:
        return (outputs_of(images) + outputs_of(images[:, :, ::-1])) / 2

    own = mirrored(images)
    if views == "mirror":
        return own
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = mirrored(padded[:, :height, :width]) + mirrored(padded[:, 2 : height + 2, 2 : width + 2])
    return (own + shifted / 2) / 2
