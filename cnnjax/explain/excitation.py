"""What layers return for images, and which images and patches of a data set excite their channels most."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.explain.layers import find_layer, list_layers
from cnnjax.explain.passes import check_count
from cnnjax.explain.targets import check_images
from cnnjax.models.features import extract_features


def feature_maps(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    layers: Sequence[str] | None = None,
    **kwargs: Any,
) -> dict[str, jax.Array]:
    """Return what every layer gives, in the order in which they finish.

    Args:
      model: the network, any Linen module.
      variables: its variables.
      images: float[batch, height, width, channels], as the network takes them.
      layers: paths of the layers; None for all with positions that follow a convolution.
      **kwargs: for ``model.apply``.
    Returns:
      path -> float[batch, layer's height, layer's width, layer's channels].
    Raises:
      ValueError: images that cannot be explained, an unknown layer, or a network without such layers.
    """
    images = check_images(images)
    if layers is None:
        layers = [
            layer.path
            for layer in list_layers(model, variables, images, **kwargs)
            if layer.after_conv and len(layer.shape) == 4
        ]
        if not layers:
            raise ValueError(f"{type(model).__name__} has no convolutional layers; name others with layers=")
    return extract_features(model, variables, images, layers=layers, **kwargs)


def receptive_field(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: Sequence[int],
    layer: str,
    place: tuple[int, int],
    **kwargs: Any,
) -> tuple[int, int, int, int]:
    """Return the box of pixels that one position of a layer depends on, cut at the image's border.

    It is the box around all pixels with a gradient in any of eight random images: exact for convolutions and average
    pooling; a pixel that no maximum and no active ReLU passes on in any of the eight is missed.

    Args:
      model, variables, **kwargs: as in `feature_maps`.
      image_shape: (height, width, channels).
      layer: path of a layer with positions.
      place: (row, column) in the layer's output.
    Returns:
      top, left, bottom, right, the last two exclusive.
    Raises:
      ValueError: an unknown layer, or a position that is not there.
    """
    return _Boxes(model, variables, tuple(image_shape), layer, kwargs)(place)


class _Boxes:
    """Boxes of pixels that positions of a layer depend on."""

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        image_shape: tuple[int, ...],
        layer: str,
        kwargs: Mapping[str, Any],
    ) -> None:
        self._size = image_shape[:2]

        def reach(variables: Any, images: jax.Array, row: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
            def at(images: jax.Array) -> jax.Array:
                maps = extract_features(model, variables, images, layers=[layer], **kwargs)[layer]
                return maps.astype(jnp.float32)[:, row, column].sum()

            found = jax.grad(at)(images)
            touched = jnp.abs(found.astype(jnp.float32)).sum((0, 3)) > 0
            return touched.any(1), touched.any(0)

        self._reach = jax.jit(reach)
        self._variables = variables
        self._images = jax.random.normal(jax.random.key(0), (8, *image_shape), jnp.float32)
        found = jax.eval_shape(
            lambda v, x: extract_features(model, v, x, layers=[layer], **kwargs)[layer], variables, self._images
        )
        if found.ndim != 4:
            raise ValueError(
                f"layer {layer!r} returns shape {found.shape}, without height and width; take one with both"
            )
        self._positions = found.shape[1:3]

    def __call__(self, place: tuple[int, int]) -> tuple[int, int, int, int]:
        if any(not 0 <= index < size for index, size in zip(place, self._positions, strict=True)):
            raise ValueError(f"place must be (row, column) within {self._positions}, got {place}")
        rows, columns = self._reach(self._variables, self._images, *map(jnp.asarray, place))
        row, column = np.flatnonzero(rows), np.flatnonzero(columns)
        if not len(row):
            return 0, 0, self._size[0], self._size[1]
        return int(row[0]), int(column[0]), int(row[-1]) + 1, int(column[-1]) + 1


@dataclasses.dataclass(frozen=True)
class TopActivations:
    """The images that excite channels of a layer most, strongest first.

    Attributes:
      layer: its path.
      channels: int[channels], the channels of the rows below.
      values: float32[channels, count], the activations; -inf where the data set has fewer images.
      indices: int[channels, count], the images' places in the data set; -1 where it has fewer.
      places: int[channels, count, 2], row and column of the activation in the layer's output.
      boxes: int[channels, count, 4], (top, left, bottom, right) of the pixels that it depends on.
      images: float32[channels, count, height, width, channels], as the network took them; zeros where there are fewer.
    """

    layer: str
    channels: np.ndarray
    values: np.ndarray
    indices: np.ndarray
    places: np.ndarray
    boxes: np.ndarray
    images: np.ndarray

    def patch(self, channel: int, rank: int) -> np.ndarray:
        """Return float32[height, width, channels], the part of an image that a row's activation depends on."""
        top, left, bottom, right = self.boxes[channel, rank]
        patch: np.ndarray = self.images[channel, rank, top:bottom, left:right]
        return patch


def top_activations(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    count: int = 9,
    **kwargs: Any,
) -> TopActivations:
    """Return the images, and the patches of them, that excite each channel of a layer most, in one pass.

    Only a channel's strongest position in each image takes part. Memory holds ``count`` images per channel, whatever
    the size of the data set.

    Source: Zeiler and Fergus 2013, arXiv:1311.2901, section 3 and figure 2; differs: nothing.

    Args:
      model: the network, any Linen module.
      variables: its variables.
      batches: of float[batch, height, width, channels] as the network takes them; a last batch may be smaller.
      layer: path of a layer with positions; None for the last one that follows a convolution.
      channels: which; None for all.
      count: images per channel.
      **kwargs: for ``model.apply``.
    Raises:
      ValueError: no batch; images of different sizes; an unknown layer or channel.
    """
    check_count("count", count)
    found: TopActivations | None = None
    strongest: Any = None
    wanted = np.arange(0)
    path, seen = layer or "", 0
    for batch in batches:
        images = np.asarray(check_images(batch), np.float32)
        if found is None:
            path = find_layer(model, variables, images, layer, kwargs)
            strongest = _strongest(model, path, kwargs)
            total = jax.eval_shape(strongest, variables, images)[0].shape[-1]
            wanted = np.arange(total) if channels is None else np.asarray(channels, int)
            if wrong := [int(channel) for channel in wanted if not 0 <= channel < total]:
                raise ValueError(f"channels of {path!r} must be from 0 to {total - 1}, got {wrong[0]}")
            rows = (len(wanted), count)
            found = TopActivations(
                path,
                wanted,
                np.full(rows, -np.inf, np.float32),
                np.full(rows, -1),
                np.zeros((*rows, 2), int),
                np.zeros((*rows, 4), int),
                np.zeros((*rows, *images.shape[1:]), np.float32),
            )
        elif images.shape[1:] != found.images.shape[2:]:
            raise ValueError(f"images must have one size, got {images.shape[1:]} after {found.images.shape[2:]}")
        values, places = (np.asarray(array) for array in strongest(variables, images))
        for row, channel in enumerate(wanted):
            # Those kept come first, so that of equals the earlier image stays.
            together = np.concatenate([found.values[row], values[:, channel]])
            order = np.argsort(-together, kind="stable")[:count]
            new = order - count
            found.values[row] = together[order]
            for array, fresh in (
                (found.indices, seen + np.arange(len(images))),
                (found.places, places[:, channel]),
                (found.images, images),
            ):
                array[row] = np.stack([fresh[n] if n >= 0 else array[row, n + count] for n in new])
        seen += len(images)
    if found is None:
        raise ValueError("batches must hold at least one batch of images, got none")
    boxes = _Boxes(model, variables, found.images.shape[2:], path, kwargs)
    known: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for row, rank in np.argwhere(found.indices >= 0):
        place = (int(found.places[row, rank, 0]), int(found.places[row, rank, 1]))
        if place not in known:
            known[place] = boxes(place)
        found.boxes[row, rank] = known[place]
    return found


def _strongest(model: nn.Module, path: str, kwargs: Mapping[str, Any]) -> Any:
    """Return a compiled function to float32[batch, channels] and int[batch, channels, 2]: each channel's maximum."""

    def strongest(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        maps = extract_features(model, variables, images, layers=[path], **kwargs)[path].astype(jnp.float32)
        batch, height, width, channels = maps.shape
        flat = maps.reshape(batch, height * width, channels)
        place = flat.argmax(1)
        return flat.max(1), jnp.stack([place // width, place % width], axis=-1)

    return jax.jit(strongest)
