"""Runs of networks that map images to images: what their configs have in common, and what the loop needs of them.

A script's config is an `ImageToImageConfig` with flags of its own, and `ImageToImageSetup.create` builds the run from
it and from what is particular to the script: network, data, loss and metrics. `cnnjax.training.fit` does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, Unpack

import jax

from cnnjax.data.augment import Operation, augment, needs_turns, parse_all
from cnnjax.training.flags import ConfigError
from cnnjax.training.parallel import for_platform
from cnnjax.training.run_config import RunConfig
from cnnjax.training.setup import Parts, RunSetup, check_images, choose_devices
from cnnjax.training.steps import Preprocess


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToImageConfig(RunConfig):
    """A run; each field is a flag of the script."""

    batch_size: int = 16
    schedule: Literal["constant", "multistep", "cosine", "polynomial", "onecycle"] = "cosine"
    """Learning-rate schedule: cosine and polynomial (linear) fall to 0; multistep divides by 10 after 50 % and 75 %."""


# Folded into the keys of examples for what comes after augmentations, which fold in their positions.
AFTER = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Augmented:
    """A preprocessing hook after augmentations.

    Attributes:
      operations: applied in training, in their order.
      then: the hook.
    """

    operations: tuple[Operation, ...]
    then: Preprocess

    def __call__(self, batch: Mapping[str, jax.Array], keys: jax.Array | None) -> dict[str, jax.Array]:
        """Augment (with keys) and preprocess ``batch``."""
        if keys is None:
            return self.then(batch, None)
        after = jax.vmap(lambda key: jax.random.fold_in(key, AFTER))(keys)
        return self.then(augment(batch, keys, self.operations), after)


@dataclasses.dataclass(frozen=True)
class ImageToImageSetup(RunSetup):
    """What the training loop needs of a run of a `ImageToImageConfig`.

    Attributes:
      facts: what the config left open, for ``config.json``.
    """

    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def create(cls, config: ImageToImageConfig, *, facts: Mapping[str, Any], **parts: Unpack[Parts]) -> Self:
        """Build what the loop needs.

        Args:
          config: the run; what it augments is augmented before ``preprocess``.
          facts: see the class.
          **parts: see `cnnjax.training.setup.Parts`.
        Raises:
          ConfigError: the devices cannot share a batch, the network does not take such images, or warm-up leaves
            nothing of the run.
        """
        devices = choose_devices(config)
        parts["model"] = for_platform(parts["model"], jax.default_backend())
        check_images(config, parts["model"], parts["image_shape"])
        if config.augment:
            operations = parse_all(config.augment)
            if needs_turns(operations):
                raise ConfigError("augment mirror:order=alternating is for classifiers; take mirror")
            parts["preprocess"] = Augmented(operations, parts["preprocess"])
        return cls.build(config, devices, parts, facts=facts)

    def resolved(self) -> dict[str, Any]:
        """Return what the config left open."""
        return {"image_shape": list(self.image_shape), "steps": self.num_steps, **self.facts}
