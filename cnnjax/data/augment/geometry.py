"""Augmentations that move pixels: mirrors, crops, affine maps and elastic deformation.

Images, image-shaped targets, segmentation labels and foregrounds move alike: images between pixels are interpolated,
labels take the nearest pixel. What comes from outside is ``fill`` in images and `IGNORED_LABEL` in labels.

Consecutive affine operations are composed and interpolate once (`cnnjax.data.augment.augment`).
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache, partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.operation import (
    Batch,
    between,
    change_places,
    check,
    pixels,
    uniforms,
    where,
    white,
)

Interpolation = Literal["bilinear", "nearest"]
Order = Literal["random", "alternating"]
CropBorder = Literal["fill", "reflect"]


@dataclasses.dataclass(frozen=True)
class Mirror:
    """Flip images left to right.

    Harmful where left and right mean something: digits, letters, a heart's side.

    In the order "alternating", a random half of the images is flipped in the first epoch, and from then on every image
    is flipped in each second epoch, so that two epochs show each image from both sides. This goes by ``turn``
    int32[batch] of the batch, which runs of classifiers give (`cnnjax.data.pipeline.BatchStream`): odd are flipped.

    Source: of the order, Jordan 2024, arXiv:2404.00498, section 3 (alternating flip).

    Attributes:
      probability: of each image; 0.5 in the order "alternating".
      order: "random" or "alternating".
    """

    probability: float = 0.5
    order: Order = "random"

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)
        if self.order not in get_args(Order):
            raise ValueError(f"order of Mirror must be one of {', '.join(get_args(Order))}, got {self.order!r}")
        if self.order == "alternating" and self.probability != 0.5:
            raise ValueError(f"probability of Mirror is 0.5 in the order alternating, got {self.probability}")

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        if self.order == "random":
            chosen = uniforms(keys, 1)[:, 0] < self.probability
        elif "turn" in batch:
            chosen = batch["turn"] % 2 == 1
        else:
            raise ValueError(
                "mirror:order=alternating needs the turns of examples, which only runs of classifiers give"
            )
        return change_places(
            batch, lambda x: where(chosen, x[:, :, ::-1], x), lambda x, outside: where(chosen, x[:, :, ::-1], x)
        )


@dataclasses.dataclass(frozen=True)
class VerticalMirror:
    """Flip images upside down; see `Mirror`."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        chosen = uniforms(keys, 1)[:, 0] < self.probability
        return change_places(
            batch, lambda x: where(chosen, x[:, ::-1], x), lambda x, outside: where(chosen, x[:, ::-1], x)
        )


@dataclasses.dataclass(frozen=True)
class Crop:
    """Put ``padding`` pixels around an image and cut the old size out of it at random.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (padding 4 on CIFAR-10); torchvision's ``RandomCrop``.

    Attributes:
      padding: pixels on each side; shifts are whole pixels, up to this many in each direction.
      probability: of each image.
      fill: brightness of the padding, 0 black to 1 white.
      border: "fill", or "reflect" to pad with the image itself, reflected about its outermost pixels.
    """

    padding: int = 4
    probability: float = 1.0
    fill: float = 0.0
    border: CropBorder = "fill"

    def __post_init__(self) -> None:
        check(self, "padding", 0)
        if self.border not in get_args(CropBorder):
            raise ValueError(f"border of Crop must be one of {', '.join(get_args(CropBorder))}, got {self.border!r}")
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        random = uniforms(keys, 3)
        corners = jnp.floor(random[:, :2] * (2 * self.padding + 1)).astype(jnp.int32)
        corners = where(random[:, 2] < self.probability, corners, jnp.full_like(corners, self.padding))

        def crop(array: jax.Array, outside: float) -> jax.Array:
            sides = (0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0)
            if self.border == "reflect":
                padded = jnp.pad(array, sides, mode="reflect")
            else:
                padded = jnp.pad(array, sides, constant_values=jnp.asarray(outside, array.dtype))
            # Whole rows, then columns: on CPUs the fastest of eight ways tried, 1.6 times dynamic_slice under vmap.
            for axis in (1, 2):
                places = corners[:, axis - 1 : axis] + jnp.arange(array.shape[axis], dtype=jnp.int32)[None]
                shape = [len(array), 1, 1, 1]
                shape[axis] = array.shape[axis]
                padded = jnp.take_along_axis(padded, places.reshape(shape), axis=axis, mode="promise_in_bounds")
            return padded

        return change_places(batch, lambda x: crop(x, self.fill * white(x.dtype)), crop)


class Affine:
    """What the affine operations share.

    A subclass has the fields ``probability``, ``fill`` (brightness outside, 0 black to 1 white) and ``interpolation``
    ("bilinear", or "nearest" as torchvision's default is), and says which matrices its keys mean.
    """

    probability: float
    fill: float
    interpolation: Interpolation

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"interpolation of {type(self).__name__} must be one of {', '.join(get_args(Interpolation))}, "
                f"got {self.interpolation!r}"
            )

    def draw(self, random: jax.Array, height: int, width: int) -> jax.Array:
        """Return the matrices (see `warp`) of ``random``, uniform float32[batch, 4]."""
        raise NotImplementedError

    def matrices(self, keys: jax.Array, height: int, width: int) -> jax.Array:
        """Return the matrices (see `warp`) that the keys mean; those of examples that stay are the identity."""
        random = uniforms(keys, 5)
        drawn = self.draw(random[:, 1:], height, width)
        return where(random[:, 0] < self.probability, drawn, affine_matrices(len(random)))

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        return warp(batch, self.matrices(keys, height, width), self.interpolation, self.fill)


@dataclasses.dataclass(frozen=True)
class Translate(Affine):
    """Shift images by whole pixels, up to ``fraction`` of their width and height in each direction.

    Source: torchvision's ``RandomAffine(translate=)``.
    """

    fraction: float = 0.1
    probability: float = 1.0
    fill: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check(self, "fraction", 0, 1)
        super().__post_init__()

    def draw(self, random: jax.Array, height: int, width: int) -> jax.Array:
        """See `Affine`."""
        x, y = (
            jnp.round(between(random[:, i], -1, 1) * self.fraction * side) for i, side in enumerate((width, height))
        )
        return affine_matrices(len(random), translate_x=x, translate_y=y)


@dataclasses.dataclass(frozen=True)
class Rotate(Affine):
    """Rotate images about their middle by up to ``degrees`` in either direction.

    Source: torchvision's ``RandomRotation``.
    """

    degrees: float = 15.0
    probability: float = 1.0
    fill: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check(self, "degrees", 0, 180)
        super().__post_init__()

    def draw(self, random: jax.Array, height: int, width: int) -> jax.Array:
        """See `Affine`."""
        return affine_matrices(len(random), angle=between(random[:, 0], -self.degrees, self.degrees))


@dataclasses.dataclass(frozen=True)
class Shear(Affine):
    """Shear images about their middle, along x and along y, by up to ``degrees`` in either direction.

    Source: torchvision's ``RandomAffine(shear=)``.
    """

    degrees: float = 10.0
    probability: float = 1.0
    fill: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check(self, "degrees", 0, 80)
        super().__post_init__()

    def draw(self, random: jax.Array, height: int, width: int) -> jax.Array:
        """See `Affine`."""
        x, y = (between(random[:, i], -self.degrees, self.degrees) for i in (0, 1))
        return affine_matrices(len(random), shear_x=x, shear_y=y)


@dataclasses.dataclass(frozen=True)
class Zoom(Affine):
    """Enlarge or shrink images about their middle, by a factor from 1 - ``factor`` to 1 + ``factor``.

    Source: torchvision's ``RandomAffine(scale=)``.
    """

    factor: float = 0.2
    probability: float = 1.0
    fill: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check(self, "factor", 0, 0.99)
        super().__post_init__()

    def draw(self, random: jax.Array, height: int, width: int) -> jax.Array:
        """See `Affine`."""
        return affine_matrices(len(random), scale=between(random[:, 0], 1 - self.factor, 1 + self.factor))


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Displace pixels by a smooth random field.

    Uniform noise from -1 to 1 is blurred with a Gaussian of ``sigma`` pixels and multiplied by ``alpha`` / 2, pixels.

    Source: Simard et al. 2003, "Best practices for convolutional neural networks applied to visual document analysis",
    section 2; numbers as torchvision's ``ElasticTransform``, whose alpha is twice a displacement in pixels.

    Attributes:
      alpha: strength.
      sigma: smoothness, pixels, above 0.
      probability: of each image.
      fill: brightness outside, 0 black to 1 white.
    """

    alpha: float = 50.0
    probability: float = 1.0
    sigma: float = 5.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "alpha", 0)
        check(self, "probability", 0, 1)
        check(self, "sigma", 0.1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        count, height, width = batch["image"].shape[:3]
        random = uniforms(keys, 2 * height * width + 1)
        noise = between(random[:, 1:], -1, 1).reshape(count, 2, height, width)
        down, across = (jnp.asarray(smoothing_matrix(size, self.sigma)) for size in (height, width))
        smooth = jnp.einsum("yi,ncij,xj->ncyx", down, noise, across, precision="highest")
        moved = where(random[:, 0] < self.probability, smooth * (self.alpha / 2), jnp.zeros_like(smooth))
        rows, columns = _grid(height, width)
        return warp_from(batch, columns + moved[:, 0], rows + moved[:, 1], "bilinear", self.fill)


def affine_matrices(
    count: int,
    *,
    angle: jax.Array | float = 0.0,
    translate_x: jax.Array | float = 0.0,
    translate_y: jax.Array | float = 0.0,
    scale: jax.Array | float = 1.0,
    shear_x: jax.Array | float = 0.0,
    shear_y: jax.Array | float = 0.0,
) -> jax.Array:
    """Return the inverse matrices of: shear, zoom, rotate clockwise about the middle, then translate.

    Source: torchvision's ``functional.affine`` with the middle as centre.

    Args:
      count: of matrices; each of the others is a number or float32[count].
      angle, shear_x, shear_y: degrees.
      translate_x, translate_y: pixels.
      scale: factor by which things grow.
    Returns:
      float32[count, 2, 3], see `warp`.
    """
    rotation, sx, sy = (jnp.deg2rad(jnp.asarray(value, jnp.float32)) for value in (angle, shear_x, shear_y))
    a = jnp.cos(rotation - sy) / jnp.cos(sy)
    b = -a * jnp.tan(sx) - jnp.sin(rotation)
    c = jnp.sin(rotation - sy) / jnp.cos(sy)
    d = -c * jnp.tan(sx) + jnp.cos(rotation)
    rows = []
    for x, y in ((d, -b), (-c, a)):
        x, y = x / scale, y / scale
        rows.append([x, y, -x * translate_x - y * translate_y])
    return jnp.stack([jnp.stack([jnp.broadcast_to(value, (count,)) for value in row], -1) for row in rows], 1)


def compose(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the matrices (see `warp`) of two maps, ``first`` applied first."""
    linear = jnp.einsum("nij,njk->nik", first[:, :, :2], second[:, :, :2], precision="highest")
    offset = jnp.einsum("nij,nj->ni", first[:, :, :2], second[:, :, 2], precision="highest") + first[:, :, 2]
    return jnp.concatenate([linear, offset[:, :, None]], -1)


def warp(batch: Batch, matrices: jax.Array, interpolation: Interpolation, fill: float) -> dict[str, jax.Array]:
    """Move all that has height and width by affine maps.

    Args:
      batch: see `Operation`.
      matrices: float32[batch, 2, 3]: from the place (x, y, 1) of a pixel of the result, in pixels from the middle of
        the image, to the place (x, y) it is taken from.
      interpolation: of images.
      fill: brightness outside, 0 black to 1 white.
    """
    height, width = batch["image"].shape[1:3]
    rows, columns = _grid(height, width)
    x, y = columns - (width - 1) / 2, rows - (height - 1) / 2
    m = [[matrices[:, i, j].reshape(-1, 1, 1) for j in range(3)] for i in range(2)]
    return warp_from(
        batch,
        m[0][0] * x + m[0][1] * y + m[0][2] + (width - 1) / 2,
        m[1][0] * x + m[1][1] * y + m[1][2] + (height - 1) / 2,
        interpolation,
        fill,
    )


def warp_from(
    batch: Batch, x: jax.Array, y: jax.Array, interpolation: Interpolation, fill: float
) -> dict[str, jax.Array]:
    """Take each pixel of the result from the place (x, y), float32[batch, height, width], of all that has places."""
    sample = partial(_bilinear if interpolation == "bilinear" else _nearest, x=x, y=y)
    return change_places(
        batch,
        lambda images: sample(images, outside=fill * white(images.dtype)),
        lambda labels, outside: _nearest(labels, x=x, y=y, outside=outside),
    )


def _grid(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Return row and column of each pixel, float32[1, height, width]."""
    rows = jax.lax.broadcasted_iota(jnp.float32, (1, height, width), 1)
    return rows, jax.lax.broadcasted_iota(jnp.float32, (1, height, width), 2)


def _take(array: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the pixels at whole places, and bool[batch, height, width, 1]: whether they lie inside."""
    count, height, width, channels = array.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = jnp.clip(y, 0, height - 1).astype(jnp.int32) * width + jnp.clip(x, 0, width - 1).astype(jnp.int32)
    flat = array.reshape(count, height * width, channels)
    taken = jnp.take_along_axis(flat, places.reshape(count, -1, 1), axis=1, mode="promise_in_bounds")
    return taken.reshape(array.shape), inside[..., None]


def _nearest(array: jax.Array, *, x: jax.Array, y: jax.Array, outside: float) -> jax.Array:
    taken, inside = _take(array, jnp.round(x), jnp.round(y))
    return jnp.where(inside, taken, jnp.asarray(outside, array.dtype))


def _bilinear(array: jax.Array, *, x: jax.Array, y: jax.Array, outside: float) -> jax.Array:
    left, top = jnp.floor(x), jnp.floor(y)
    values = jnp.zeros(array.shape, jnp.float32)
    for right in (0, 1):
        for down in (0, 1):
            weight = (x - left if right else 1 - (x - left)) * (y - top if down else 1 - (y - top))
            taken, inside = _take(array, left + right, top + down)
            values += weight[..., None] * jnp.where(inside, taken.astype(jnp.float32), outside)
    return pixels(values, array.dtype)


@lru_cache
def smoothing_matrix(size: int, sigma: float) -> np.ndarray:
    """Return float32[size, size] that blurs a row of pixels with a Gaussian, reflected at the ends."""
    radius = min(math.ceil(4 * sigma), size - 1)
    weights = np.exp(-((np.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    matrix = np.zeros((size, size))
    for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
        np.add.at(matrix, (np.arange(size), reflected(np.arange(size) + offset, size)), weight)
    return matrix.astype(np.float32)


def reflected(places: np.ndarray, size: int) -> np.ndarray:
    """Return places within ``size`` pixels, those at most size - 1 outside reflected about the outermost pixel."""
    places = np.abs(places)
    return np.where(places >= size, 2 * (size - 1) - places, places)
