"""Augmentations by name, and in a row.

>>> from cnnjax.data.augment import parse
>>> parse("crop:4")
Crop(padding=4, probability=1.0, fill=0.0, border='fill')
>>> parse("rotate:degrees=20,probability=0.5")
Rotate(degrees=20.0, probability=0.5, fill=0.0, interpolation='bilinear')
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import jax

from cnnjax.data.augment import colour, geometry, mixing, noise, policies
from cnnjax.data.augment.operation import Batch, Operation

OPERATIONS: dict[str, Any] = {
    "mirror": geometry.Mirror,
    "vertical-mirror": geometry.VerticalMirror,
    "crop": geometry.Crop,
    "translate": geometry.Translate,
    "rotate": geometry.Rotate,
    "shear": geometry.Shear,
    "zoom": geometry.Zoom,
    "elastic": geometry.Elastic,
    "brightness": colour.Brightness,
    "contrast": colour.Contrast,
    "gamma": colour.Gamma,
    "saturation": colour.Saturation,
    "hue": colour.Hue,
    "grey": colour.Grey,
    "channel-shuffle": colour.ChannelShuffle,
    "sharpness": colour.Sharpness,
    "gaussian-noise": noise.GaussianNoise,
    "speckle": noise.Speckle,
    "salt-and-pepper": noise.SaltAndPepper,
    "blur": noise.Blur,
    "cutout": noise.Cutout,
    "random-erasing": noise.RandomErasing,
    "background": mixing.Background,
    "mixup": mixing.Mixup,
    "cutmix": mixing.CutMix,
    "mixup-or-cutmix": mixing.MixupOrCutMix,
    "randaugment": policies.RandAugment,
    "trivialaugment": policies.TrivialAugment,
    "autoaugment": policies.AutoAugment,
    "augmix": policies.AugMix,
}


def parse(spec: str, *, num_classes: int | None = None) -> Operation:
    """Return the augmentation that a spec names.

    A spec is a name of `OPERATIONS`, alone or with a colon and values: first the strength and then the probability, in
    the order of the operation's fields, or by name: ``mirror``, ``crop:4``, ``rotate:15,0.5``,
    ``randaugment:2,9``, ``cutmix:alpha=1,probability=0.5``.

    Args:
      spec: as above.
      num_classes: for operations that mix labels; None leaves it to the spec.
    Raises:
      ValueError: an unknown name or field, a value of another type, or one that the operation refuses.
    """
    name, colon, text = spec.strip().partition(":")
    if name not in OPERATIONS:
        near = difflib.get_close_matches(name, OPERATIONS, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown augmentation {name!r} in {spec!r}; {hint}There are {', '.join(OPERATIONS)}")
    operation = OPERATIONS[name]
    fields = [field.name for field in dataclasses.fields(operation)]
    types = get_type_hints(operation)
    values: dict[str, Any] = {}
    for position, part in enumerate(text.split(",") if colon else []):
        field, equals, value = part.strip().partition("=")
        if not equals:
            if position >= len(fields):
                raise ValueError(f"augmentation {spec!r} gives {position + 1} values; {name} takes {', '.join(fields)}")
            field, value = fields[position], field
        if field not in fields:
            raise ValueError(f"augmentation {spec!r} names {field!r}; {name} takes {', '.join(fields)}")
        if field in values:
            raise ValueError(f"augmentation {spec!r} gives {field} twice")
        values[field] = _value(spec, field, value.strip(), types[field])
    if num_classes is not None and "num_classes" in fields:
        values.setdefault("num_classes", num_classes)
    try:
        return operation(**values)
    except ValueError as error:
        raise ValueError(f"augmentation {spec!r}: {error}") from error


def _value(spec: str, field: str, text: str, kind: Any) -> Any:
    """Return ``text`` as a field of type ``kind`` holds it."""
    choices = get_args(kind)
    if kind is str or (choices and all(isinstance(choice, str) for choice in choices)):
        return text
    number = float if kind is float else int
    try:
        return number(text)
    except ValueError as error:
        expected = "a number" if number is float else "a whole number"
        raise ValueError(f"augmentation {spec!r}: {field} must be {expected}, got {text!r}") from error


def parse_all(specs: Sequence[str], *, num_classes: int | None = None) -> tuple[Operation, ...]:
    """Return the augmentations that specs name, in their order; see `parse`."""
    return tuple(parse(spec, num_classes=num_classes) for spec in specs)


def needs_turns(operations: Sequence[Operation]) -> bool:
    """Return whether an operation goes by the turns of examples, which a batch then has to hold as ``turn``."""
    return any(isinstance(each, geometry.Mirror) and each.order == "alternating" for each in operations)


def augment(batch: Batch, keys: jax.Array, operations: Sequence[Operation]) -> dict[str, jax.Array]:
    """Apply operations one after the other.

    Affine operations that follow each other and fill and interpolate alike are one warp, so that an image is
    interpolated once and nothing is cut off in between.

    Args:
      batch: see `Operation`.
      keys: key[batch]; each operation draws from its own, which depend on these and on its position.
      operations: in the order of application.
    """
    result = dict(batch)
    position = 0
    while position < len(operations):
        operation = operations[position]
        if isinstance(operation, geometry.Affine):
            height, width = result["image"].shape[1:3]
            matrices = operation.matrices(_keys(keys, position), height, width)
            while position + 1 < len(operations) and _same_warp(operation, operations[position + 1]):
                position += 1
                following: Any = operations[position]
                matrices = geometry.compose(matrices, following.matrices(_keys(keys, position), height, width))
            result = geometry.warp(result, matrices, operation.interpolation, operation.fill)
        else:
            result = operation(result, _keys(keys, position))
        position += 1
    return result


def _same_warp(first: geometry.Affine, second: Operation) -> bool:
    return isinstance(second, geometry.Affine) and (first.interpolation, first.fill) == (
        second.interpolation,
        second.fill,
    )


def _keys(keys: jax.Array, position: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, position))(keys)
