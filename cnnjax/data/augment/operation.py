"""What every augmentation is: a map from a batch and one random key an example to a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
# Label of pixels that lie outside the image; the losses leave out labels below 0.
IGNORED_LABEL = -1


@runtime_checkable
class Operation(Protocol):
    """An augmentation: frozen and hashable, so that a compiled step can close over it.

    Its fields are a strength in units of its own and a ``probability``, with which each example is changed.
    """

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with its examples changed, each as its own key says.

        Args:
          batch: ``image`` uint8[batch, height, width, channels], or float with values from 0 to 1; and what else
            belongs to the examples: ``label`` int[batch], float[batch, classes] or int[batch, height, width],
            ``target``, ``foreground`` bool[batch, height, width], ``mask`` [batch].
          keys: key[batch].
        Returns:
          A new dictionary. Images keep type, shape and range.
        """


def check(operation: Any, name: str, low: float, high: float = float("inf")) -> None:
    """Raise ValueError unless the field ``name`` of an operation is a number from ``low`` to ``high``."""
    value = getattr(operation, name)
    if not low <= value <= high:
        allowed = f"from {low:g} to {high:g}" if high < float("inf") else f"at least {low:g}"
        raise ValueError(f"{name} of {type(operation).__name__} must be {allowed}, got {value}")


def uniforms(keys: jax.Array, count: int) -> jax.Array:
    """Return float32[batch, count], uniform from 0 to below 1, each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,), jnp.float32))(keys)


def normals(keys: jax.Array, count: int) -> jax.Array:
    """Return float32[batch, count] of the standard normal distribution, each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, (count,), jnp.float32))(keys)


def between(uniform: jax.Array, low: float, high: float) -> jax.Array:
    """Map numbers that are uniform from 0 to 1 to uniform from ``low`` to ``high``."""
    return low + (high - low) * uniform


def white(dtype: Any) -> int:
    """Return the largest value of images of a type: 255 of uint8, 1 of floating-point types.

    Raises:
      TypeError: another type.
    """
    if dtype == jnp.uint8:
        return 255
    if jnp.issubdtype(dtype, jnp.floating):
        return 1
    raise TypeError(f"images to augment must be uint8, or floating-point from 0 to 1, got {dtype}")


def pixels(values: jax.Array, dtype: Any, *, truncate: bool = False) -> jax.Array:
    """Clip float values to the range of images and return them in their type, rounded or truncated if that is uint8."""
    values = jnp.clip(values, 0, white(dtype))
    if dtype == jnp.uint8 and not truncate:
        values = jnp.round(values)
    return values.astype(dtype)


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """Return ``values`` [batch] with as many dimensions as ``like``."""
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def where(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Return the examples of ``new`` where ``condition`` bool[batch] holds, those of ``old`` elsewhere."""
    return jnp.where(per_example(condition, old), new, old)


def change_images(
    batch: Batch, chosen: jax.Array, change: Callable[[jax.Array], jax.Array], *, truncate: bool = True
) -> dict[str, jax.Array]:
    """Return the batch with ``change`` of the images (float32 to float32) where ``chosen`` bool[batch] holds.

    Labels and targets stay. Values are clipped; uint8 is truncated, as torchvision does, or rounded.
    """
    images = batch["image"]
    changed = pixels(change(images.astype(jnp.float32)), images.dtype, truncate=truncate)
    return {**batch, "image": where(chosen, changed, images)}


def change_places(
    batch: Batch, images: Callable[[jax.Array], jax.Array], labels: Callable[[jax.Array, int], jax.Array]
) -> dict[str, jax.Array]:
    """Return the batch with everything that has height and width moved alike.

    Args:
      batch: see `Operation`.
      images: moves ``image``, and ``target`` if it is an image, [batch, height, width, channels].
      labels: moves ``label`` and ``foreground`` [batch, height, width, 1]; the number is for what lies outside.
    Raises:
      ValueError: an image-shaped target or label of another height and width than the image.
      TypeError: labels of pixels that have no sign, in which nothing says that a pixel has no label.
    """
    size = batch["image"].shape[1:3]
    result = dict(batch)
    for name, dimensions in (("image", 4), ("target", 4), ("label", 3), ("foreground", 3)):
        array = batch.get(name)
        if array is None or array.ndim != dimensions:
            continue
        if array.shape[1:3] != size:
            raise ValueError(
                f"{name} of {array.shape[1]}x{array.shape[2]} pixels cannot move with images of {size[0]}x{size[1]}; "
                "make them equally large, or leave out geometric augmentation"
            )
        if name == "label" and not jnp.issubdtype(array.dtype, jnp.signedinteger):
            raise TypeError(f"labels of pixels must be signed integers, got {array.dtype}; turn them into int32")
        if dimensions == 4:
            result[name] = images(array)
        else:
            outside = 0 if name == "foreground" else IGNORED_LABEL
            result[name] = labels(array[..., None], outside)[..., 0]
    return result
