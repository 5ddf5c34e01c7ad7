"""Classifiers of converted weights: left out, taken out of what was put around them, or drawn anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax

from cnnjax.models.classifiers import classifier_of, draw_classifiers
from cnnjax.pretrained.plan import Entry, layer_of, trace


def without_heads(
    given: Mapping[str, Any], left_out: Iterable[Entry], stored: Iterable[str], constants: Iterable[str]
) -> dict[str, Any]:
    """Return the arrays without those that are not needed, whatever layers stand in the place of theirs."""
    stored = list(stored)
    names = {one.name for one in left_out if isinstance(one.name, str)}
    starts = set()
    for name in names:
        start = layer_of(name)
        # A sequence that only the classifier is of: users put another one in its place.
        while (above := layer_of(start[:-1])) and not any(key.startswith(above) for key in stored):
            start = above
        starts.add(start)
    return {
        key: value
        for key, value in given.items()
        if key not in names and key not in constants and not (starts and key.startswith(tuple(starts)))
    }


def unwrapped(given: Mapping[str, Any], classifiers: Iterable[str]) -> dict[str, Any]:
    """Return the arrays with sequences whose one dense layer is a classifier (``fc.1.weight``) under its names."""
    renamed: dict[str, str] = {}
    layers: dict[str, set[str]] = {}
    for name in classifiers:
        layers.setdefault(layer_of(name), set()).add(name.removeprefix(layer_of(name)))
    for layer, leaves in layers.items():
        inside = [key for key in given if key.startswith(layer)] if layer else []
        inner = {layer_of(key) for key in inside}
        if len(inner) == 1 and inner != {layer} and {key.removeprefix(min(inner)) for key in inside} == leaves:
            renamed |= {key: layer + key.removeprefix(min(inner)) for key in inside}
    return {renamed.get(key, key): value for key, value in given.items()}


def draw_heads(
    name: str, model: nn.Module, channels: int, key: jax.Array, image_size: int | None
) -> dict[tuple[str, ...], jax.Array]:
    """Return freshly initialised classifiers, each made by its own layer."""
    layers, arrays = trace(name, model, channels, image_size)
    # A classifier of fixed codes has no kernel, and nothing to draw.
    classifiers = {
        path: layers[path] for path in layers if classifier_of(path) and ("params", f"{path}/kernel") in arrays
    }
    shapes = {path: value.shape for (collection, path), value in arrays.items() if collection == "params"}
    drawn = draw_classifiers(classifiers, shapes, key)
    return {("params", *path.split("/")): value for path, value in drawn.items()}
