"""The last layers of networks, which classify: which they are, and how they are drawn anew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Those of auxiliary heads too.
CLASSIFIER = re.compile(r"((head|aux\d+)/(\w+_)?classifier)(/\w+)?")


def classifier_of(path: str) -> str | None:
    """Return the path of the classifier that a path means, or that an array at this path belongs to; None: of none.

    >>> classifier_of("aux1/classifier/kernel"), classifier_of("stage4/conv1/kernel")
    ('aux1/classifier', None)
    """
    match = CLASSIFIER.fullmatch(path)
    return None if match is None else match[1]


def draw_classifiers(
    layers: Mapping[str, nn.Module], shapes: Mapping[str, tuple[int, ...]], key: jax.Array
) -> dict[str, jax.Array]:
    """Return the parameters of classifiers by path, each drawn by its own layer.

    Args:
      layers: the classifiers by path.
      shapes: of the kernels, of any number of outputs, by path (``head/classifier/kernel``).
      key: random key.
    """
    drawn: dict[str, jax.Array] = {}
    for path, subkey in zip(sorted(layers), jax.random.split(key, len(layers)), strict=True):
        *window, inputs, _ = shapes[f"{path}/kernel"]
        inputs *= getattr(layers[path], "feature_group_count", 1)
        params: Any = layers[path].init(subkey, jnp.zeros((1, *window, inputs)))["params"]
        drawn |= {f"{path}/{leaf}": value for leaf, value in params.items()}
    return drawn
