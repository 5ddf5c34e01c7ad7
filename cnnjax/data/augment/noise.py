"""Augmentations that take information away: noise, blur, erased rectangles. Targets and labels stay."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.geometry import reflected
from cnnjax.data.augment.operation import (
    Batch,
    between,
    change_images,
    check,
    normals,
    uniforms,
    white,
)

# Rectangles that are tried before an image is left as it is.
ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """Add independent normal noise to each pixel and channel.

    Source: torchvision's ``GaussianNoise``; differs: uint8 is rounded, not truncated.

    Attributes:
      sigma: standard deviation, with white being 1.
      probability: of each image.
    """

    sigma: float = 0.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "sigma", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        scale = self.sigma * white(batch["image"].dtype)
        chosen, noise = _normal_noise(batch, keys, self.probability)
        return change_images(batch, chosen, lambda x: x + scale * noise, truncate=False)


@dataclasses.dataclass(frozen=True)
class Speckle:
    """Multiply each pixel and channel by 1 plus independent normal noise.

    Source: Goodman 1976, "Some fundamental properties of speckle", as image libraries take it (MATLAB's ``imnoise``,
    scikit-image's ``random_noise``).

    Attributes:
      sigma: standard deviation of the factor.
      probability: of each image.
    """

    sigma: float = 0.1
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "sigma", 0)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        chosen, noise = _normal_noise(batch, keys, self.probability)
        return change_images(batch, chosen, lambda x: x + self.sigma * x * noise, truncate=False)


def _normal_noise(batch: Batch, keys: jax.Array, probability: float) -> tuple[jax.Array, jax.Array]:
    """Return which images are chosen, and standard normal noise of the images' shape."""
    choice_keys, noise_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    shape = batch["image"].shape
    # Drawn flat: XLA's CPU compiler takes seconds for draws of more dimensions.
    return uniforms(choice_keys, 1)[:, 0] < probability, normals(noise_keys, math.prod(shape[1:])).reshape(shape)


@dataclasses.dataclass(frozen=True)
class SaltAndPepper:
    """Make pixels white or black, all channels of one together.

    Attributes:
      amount: expected share of pixels, half of them white.
      probability: of each image.
    """

    amount: float = 0.05
    probability: float = 1.0

    def __post_init__(self) -> None:
        check(self, "amount", 0, 1)
        check(self, "probability", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        count, height, width = batch["image"].shape[:3]
        bound = white(batch["image"].dtype)
        random = uniforms(keys, height * width + 1)
        spots = random[:, 1:].reshape(count, height, width, 1)

        def spot(x: jax.Array) -> jax.Array:
            salted = jnp.where(spots < self.amount / 2, jnp.full_like(x, bound), jnp.zeros_like(x))
            return jnp.where(spots < self.amount, salted, x)

        return change_images(batch, random[:, 0] < self.probability, spot)


@dataclasses.dataclass(frozen=True)
class Blur:
    """Blur with a Gaussian of random width, reflected at the border.

    Source: torchvision's ``GaussianBlur``, which draws its width alike.

    Attributes:
      sigma: largest standard deviation, pixels; it is uniform from a tenth, or from ``sigma`` if that is less.
      probability: of each image.
      kernel_size: odd, pixels; None: three standard deviations of the largest width on each side.
    """

    sigma: float = 2.0
    probability: float = 0.5
    kernel_size: int | None = None

    def __post_init__(self) -> None:
        check(self, "sigma", 0)
        check(self, "probability", 0, 1)
        if self.kernel_size is not None and (self.kernel_size < 1 or self.kernel_size % 2 == 0):
            raise ValueError(f"kernel_size of Blur must be odd and at least 1, got {self.kernel_size}")

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        if self.sigma == 0:
            return dict(batch)
        random = uniforms(keys, 2)
        sigmas = between(random[:, 1], min(0.1, self.sigma), self.sigma)
        return self.adjust(batch, random[:, 0] < self.probability, sigmas)

    def adjust(self, batch: Batch, chosen: jax.Array, sigmas: jax.Array) -> dict[str, jax.Array]:
        """Return the batch with the chosen images blurred by ``sigmas`` float32[batch]."""
        height, width = batch["image"].shape[1:3]
        down, across = (self._matrices(sigmas, size) for size in (height, width))

        def blur(x: jax.Array) -> jax.Array:
            x = jnp.einsum("nyi,niwc->nywc", down, x, precision="highest")
            return jnp.einsum("nxj,nhjc->nhxc", across, x, precision="highest")

        return change_images(batch, chosen, blur, truncate=False)

    def _matrices(self, sigmas: jax.Array, size: int) -> jax.Array:
        """Return float32[batch, size, size] that blur rows of ``size`` pixels."""
        radius = self.kernel_size // 2 if self.kernel_size else math.ceil(3 * self.sigma)
        radius = min(radius, size - 1)
        offsets = np.arange(-radius, radius + 1)
        weights = jnp.exp(-((offsets.astype(np.float32)[None] / sigmas[:, None]) ** 2) / 2)
        weights = weights / weights.sum(1, keepdims=True)
        places = reflected(np.arange(size)[:, None] + offsets[None], size)
        spread = (places[..., None] == np.arange(size)).astype(np.float32)
        return jnp.einsum("nt,ytx->nyx", weights, spread, precision="highest")


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Erase a square whose middle may be anywhere in the image.

    Source: DeVries and Taylor 2017, arXiv:1708.04552, section 3.2 (16 pixels on CIFAR-10, 8 on CIFAR-100).

    Attributes:
      size: of the square, pixels; the part outside the image is lost.
      probability: of each image.
      fill: brightness, 0 black to 1 white; differs: the paper's zero is the mean, after normalisation.
    """

    size: int = 16
    probability: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "size", 0)
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        random = uniforms(keys, 3)
        top, left = (jnp.floor(random[:, i] * side) - self.size // 2 for i, side in enumerate((height, width)))
        erased = rectangles(top, left, top + self.size, left + self.size, height, width)
        bound = white(batch["image"].dtype)
        return change_images(
            batch, random[:, 2] < self.probability, lambda x: jnp.where(erased, jnp.full_like(x, self.fill * bound), x)
        )


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Erase a random rectangle that fits into the image.

    Source: Zhong et al. 2017, arXiv:1708.04896, algorithm 1, with the numbers of torchvision's ``RandomErasing``: area
    from 2 to 33 %, ratio of height to width from 0.3 to 1/0.3, uniform in its logarithm.

    Attributes:
      area: largest share of the image.
      probability: of each image.
      fill: "black", or "noise": uniform noise in each pixel and channel.
    """

    area: float = 0.33
    probability: float = 0.5
    fill: Literal["black", "noise"] = "black"

    def __post_init__(self) -> None:
        check(self, "area", 0, 1)
        check(self, "probability", 0, 1)
        if self.fill not in ("black", "noise"):
            raise ValueError(f"fill of RandomErasing must be 'black' or 'noise', got {self.fill!r}")

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width, channels = batch["image"].shape[1:]
        noise_size = height * width * channels if self.fill == "noise" else 0
        random = uniforms(keys, 3 + 2 * ATTEMPTS + noise_size)
        areas = height * width * between(random[:, 3 : 3 + ATTEMPTS], min(0.02, self.area), self.area)
        ratios = jnp.exp(between(random[:, 3 + ATTEMPTS : 3 + 2 * ATTEMPTS], math.log(0.3), -math.log(0.3)))
        heights, widths = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
        fits = (heights < height) & (widths < width)
        first = jnp.argmax(fits, axis=1)[:, None]
        h, w = (jnp.take_along_axis(sizes, first, axis=1)[:, 0] for sizes in (heights, widths))
        top, left = jnp.floor(random[:, 1] * (height - h + 1)), jnp.floor(random[:, 2] * (width - w + 1))
        erased = rectangles(top, left, top + h, left + w, height, width)
        bound = white(batch["image"].dtype)

        def erase(x: jax.Array) -> jax.Array:
            filling = jnp.zeros_like(x)
            if noise_size:
                filling = (random[:, -noise_size:] * (bound + (bound > 1))).reshape(x.shape)
            return jnp.where(erased, filling, x)

        return change_images(batch, (random[:, 0] < self.probability) & fits.any(1), erase)


def rectangles(
    top: jax.Array, left: jax.Array, bottom: jax.Array, right: jax.Array, height: int, width: int
) -> jax.Array:
    """Return bool[batch, height, width, 1]: the pixels inside each rectangle; ``bottom`` and ``right`` are outside."""
    rows, columns = (jnp.arange(size, dtype=jnp.float32)[None] for size in (height, width))
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return (down[:, :, None] & across[:, None])[..., None]
