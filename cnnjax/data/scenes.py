"""Scenes to segment: real things pasted on real photographs. The scenes are composed, so their masks are exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from cnnjax.data.photographs import random_patch

# Height of a thing, as parts of the scene's; degrees that it is turned by at most.
SIZES = (0.25, 0.5)
TURN = 20.0
# Colours that are drawn for a thing; that which most differs from what it covers is taken. Where a photograph is both
# dark and bright, even this one may hide a part of it.
COLOURS_DRAWN = 5
# A colour's score is this quantile of its contrast with the pixels that it covers.
NEAREST = 0.2
# A pixel belongs to a thing that covers half of it.
COVERED = 0.5


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Compose scenes of one to ``most`` things on a part of a photograph.

    A thing is a bright shape on black, such as a handwritten digit: where it is bright, a colour drawn at random,
    unlike most of the photograph there, covers the photograph. Later things cover earlier ones.

    Attributes:
      things: uint8[examples, height, width, 1], bright on black.
      kinds: int32[examples], from 0.
      photographs: uint8[height, width, channels] each, at least ``size`` pixels.
      size: height and width of the scenes, pixels.
      labels: "foreground" labels things 1; "kind" labels a thing of kind k k + 1. The photograph is 0.
      most: things on a scene at most.
    """

    things: np.ndarray
    kinds: np.ndarray
    photographs: Sequence[np.ndarray]
    size: int
    labels: Literal["foreground", "kind"] = "foreground"
    most: int = 3

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a scene: ``image`` uint8[size, size, channels] and ``label`` int32[size, size]."""
        image = random_patch(self.photographs, self.size, generator).astype(np.float32)
        label = np.zeros((self.size, self.size), np.int32)
        for _ in range(int(generator.integers(1, self.most + 1))):
            index = int(generator.integers(len(self.things)))
            cover = self._shape(self.things[index, ..., 0], generator)
            top, left = (int(generator.integers(0, self.size - length + 1)) for length in cover.shape)
            place = (slice(top, top + cover.shape[0]), slice(left, left + cover.shape[1]))
            colour = self._colour(image[place][cover > COVERED], generator)
            image[place] += cover[..., None] * (colour - image[place])
            label[place][cover > COVERED] = 1 if self.labels == "foreground" else int(self.kinds[index]) + 1
        return {"image": np.round(image).astype(np.uint8), "label": label}

    def many(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Return ``count`` scenes that depend on the seed alone, stacked."""
        generator = np.random.default_rng(seed)
        scenes = [self.draw(generator) for _ in range(count)]
        return {key: np.stack([scene[key] for scene in scenes]) for key in scenes[0]}

    def _shape(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return how much a thing covers, float32[height, width] from 0 to 1, at a random size and angle."""
        # A margin, so that shapes which reach the edge do not end there at once, and room for what is turned outwards.
        thing = Image.fromarray(np.pad(pixels, 1))
        scale = self.size * generator.uniform(*SIZES) / thing.height
        size = (max(round(thing.width * scale), 1), max(round(thing.height * scale), 1))
        turned = thing.resize(size, Image.Resampling.BICUBIC).rotate(
            float(generator.uniform(-TURN, TURN)), Image.Resampling.BICUBIC, expand=True
        )
        return np.asarray(turned, np.float32)[: self.size, : self.size] / 255

    @staticmethod
    def _colour(below: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a colour, float32[channels], unlike most of ``below``, float[pixels, channels]."""
        drawn = generator.uniform(0, 255, (COLOURS_DRAWN, below.shape[-1])).astype(np.float32)
        if not len(below):
            return drawn[0]
        differences = np.abs(drawn[:, None] - below).mean(-1)
        return drawn[np.quantile(differences, NEAREST, axis=1).argmax()]
