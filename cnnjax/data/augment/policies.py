"""Policies: random sequences of basic operations, each image its own, see `cnnjax.data.augment.policy_operations`.

Images are uint8. In geometric operations labels and targets with places go along; `AugMix` refuses them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment.autoaugment_tables import POLICIES
from cnnjax.data.augment.geometry import Interpolation
from cnnjax.data.augment.mixing import beta, gamma
from cnnjax.data.augment.operation import Batch, check, per_example, pixels, uniforms
from cnnjax.data.augment.policy_operations import OPERATIONS, SIGNED, apply_operations, magnitudes

# AutoAugment knows an identity only as an operation that is not applied; no policy but its own inverts.
WITHOUT_INVERT = OPERATIONS[:-1]


def _signed(numbers: jax.Array, magnitude: jax.Array, coin: jax.Array) -> jax.Array:
    """Return the magnitudes, those of operations with two directions negative where the coin is below a half."""
    return jnp.where(jnp.asarray(SIGNED)[numbers] & (coin < 0.5), -magnitude, magnitude)


def _choice(uniform: jax.Array, count: int) -> jax.Array:
    """Return int32 from 0 to ``count`` - 1, from numbers uniform from 0 to below 1."""
    return jnp.minimum(jnp.floor(uniform * count), count - 1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Apply some of fourteen operations after each other, all with the same magnitude.

    Source: Cubuk et al. 2019, arXiv:1909.13719, figure 2; operations, magnitudes and defaults are those of
    torchvision's ``RandAugment``.

    Attributes:
      operations: how many a picture.
      magnitude: bin, from 0 to 30.
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    operations: int = 2
    magnitude: int = 9
    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "operations", 0)
        check(self, "magnitude", 0, 30)
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        table = jnp.asarray(magnitudes("auto", 31, height, width)[:, self.magnitude])
        random = uniforms(keys, 1 + 2 * self.operations)
        batch = dict(batch)
        for step in range(self.operations):
            which, coin = random[:, 1 + 2 * step], random[:, 2 + 2 * step]
            numbers = jnp.where(random[:, 0] < self.probability, _choice(which, len(WITHOUT_INVERT)), 0)
            batch = apply_operations(
                batch, numbers, _signed(numbers, table[numbers], coin), self.interpolation, self.fill
            )
        return batch


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """Apply one of fourteen operations with one of 31 magnitudes, all being equally likely: nothing to tune.

    Source: Müller and Hutter 2021, arXiv:2103.10158, algorithm 1 and table 1 (wide); as torchvision's
    ``TrivialAugmentWide``.

    Attributes:
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        table = jnp.asarray(magnitudes("wide", 31, height, width))
        random = uniforms(keys, 4)
        numbers = jnp.where(random[:, 0] < self.probability, _choice(random[:, 1], len(WITHOUT_INVERT)), 0)
        magnitude = _signed(numbers, table[numbers, _choice(random[:, 2], 31)], random[:, 3])
        return apply_operations(batch, numbers, magnitude, self.interpolation, self.fill)


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """Apply one of 25 learnt pairs of operations, each operation with the pair's probability and magnitude.

    Source: Cubuk et al. 2018, arXiv:1805.09501, tables 7 (CIFAR-10) and 9 (ImageNet), in torchvision's reading.

    Attributes:
      policy: "cifar10" or "imagenet".
      probability: of each image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    policy: str = "imagenet"
    probability: float = 1.0
    interpolation: Interpolation = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy of AutoAugment must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        check(self, "probability", 0, 1)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`."""
        height, width = batch["image"].shape[1:3]
        bins = magnitudes("auto", 10, height, width)
        rows = POLICIES[self.policy]
        table = np.array([[OPERATIONS.index(name) for name, _, _ in row] for row in rows], np.int32)
        probabilities = np.array([[probability for _, probability, _ in row] for row in rows], np.float32)
        strengths = np.array([[bins[OPERATIONS.index(name), level or 0] for name, _, level in row] for row in rows])
        random = uniforms(keys, 6)
        chosen = _choice(random[:, 1], len(rows))
        batch = dict(batch)
        for step in range(2):
            used = (random[:, 0] < self.probability) & (
                random[:, 2 + step] < jnp.asarray(probabilities[:, step])[chosen]
            )
            numbers = jnp.where(used, jnp.asarray(table[:, step])[chosen], 0)
            magnitude = _signed(numbers, jnp.asarray(strengths[:, step])[chosen], random[:, 4 + step])
            batch = apply_operations(batch, numbers, magnitude, self.interpolation, self.fill)
        return batch


@dataclasses.dataclass(frozen=True)
class AugMix:
    """Blend an image with a blend of chains of one to three operations.

    The paper's consistency loss between mixtures is not part of it.

    Source: Hendrycks et al. 2019, arXiv:1912.02781, algorithm 1; operations and magnitudes as torchvision's ``AugMix``
    with ``all_ops`` (the paper leaves out brightness, contrast, colour and sharpness, with which its test is made).

    Attributes:
      severity: operations draw their magnitude from the weakest of ten bins up to this one, 1 to 10.
      probability: of each image.
      chains: blended with weights of Dirichlet(alpha, ..., alpha).
      depth: operations a chain; 0: one to three, each equally likely.
      alpha: also of the Beta distribution that weighs the blend against the image.
      interpolation, fill: of geometric operations; fill is a brightness, 0 black to 1 white.
    """

    severity: int = 3
    probability: float = 1.0
    chains: int = 3
    depth: int = 0
    alpha: float = 1.0
    interpolation: Interpolation = "bilinear"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check(self, "severity", 1, 10)
        check(self, "probability", 0, 1)
        check(self, "chains", 1)
        check(self, "depth", 0)
        check(self, "alpha", 0.01)
        check(self, "fill", 0, 1)

    def __call__(self, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """See `Operation`.

        Raises:
          ValueError: labels or targets with places, which cannot follow a blend of moved images.
        """
        for name, dimensions in (("label", 3), ("target", 4)):
            if name in batch and batch[name].ndim == dimensions:
                raise ValueError(f"AugMix blends differently moved copies of an image, which {name} cannot follow")
        images = batch["image"]
        count, height, width, _ = images.shape
        steps = self.depth or 3
        random = uniforms(keys, 2 + self.chains * (2 + 3 * steps))
        share = beta(random[:, 1], self.alpha)
        # [chains, batch, draws]: all chains are worked on at once, as one batch.
        each = jnp.moveaxis(random[:, 2:].reshape(count, self.chains, -1), 1, 0)
        weights = gamma(each[..., 0], self.alpha)
        weights = weights / weights.sum(0, keepdims=True) * (1 - share)[None]
        draws = each.reshape(self.chains * count, -1)
        lengths = self.depth or 1 + _choice(draws[:, 1], 3)
        table = jnp.asarray(magnitudes("augmix", 10, height, width))
        copies: dict[str, jax.Array] = {"image": jnp.tile(images, (self.chains, 1, 1, 1))}
        for step in range(steps):
            which, level, coin = (draws[:, 2 + 3 * step + i] for i in range(3))
            numbers = jnp.where(step < lengths, _choice(which, len(WITHOUT_INVERT) - 1) + 1, 0)
            magnitude = _signed(numbers, table[numbers, _choice(level, self.severity)], coin)
            copies = apply_operations(copies, numbers, magnitude, self.interpolation, self.fill)
        chains = copies["image"].reshape(self.chains, *images.shape).astype(jnp.float32)
        mixed = per_example(share, images) * images.astype(jnp.float32)
        mixed += jnp.einsum("kn,knhwc->nhwc", weights, chains, precision="highest")
        chosen = per_example(random[:, 0] < self.probability, images)
        return {**batch, "image": jnp.where(chosen, pixels(mixed, jnp.uint8, truncate=True), images)}
