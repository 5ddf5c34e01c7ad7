"""What is said about weights that do not fit a network: every difference, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cnnjax.models import list_models, model_info
from cnnjax.models.classifiers import classifier_of
from cnnjax.pretrained.plan import Entry, layer_of, reference_shapes, sources


def check_arrays(
    expected: Iterable[tuple[str, tuple[int, ...], str]],
    given: Mapping[str, tuple[int, ...]],
    headline: str,
    hint: Callable[[], str],
) -> None:
    """Raise one error that lists all differences of names and shapes.

    Args:
      expected: name, shape, and what the other side calls it.
      given: name -> shape.
      headline: how the message starts.
      hint: returns how it ends; only called when there is an error.
    """
    wanted = {name: (shape, partner) for name, shape, partner in expected}
    missing = [f"{name} {list(wanted[name][0])} ({wanted[name][1]})" for name in wanted if name not in given]
    extra = [f"{name} {list(shape)}" for name, shape in given.items() if name not in wanted]
    misshaped = [
        f"{name} is {list(given[name])}, expected {list(shape)} ({partner})"
        for name, (shape, partner) in wanted.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ]
    if missing or extra or misshaped:
        lines = [headline]
        for title, names in (("missing", missing), ("unexpected", extra), ("misshaped", misshaped)):
            if names:
                lines += [f"{len(names)} {title}:", *(f"  {name}" for name in names)]
        raise ValueError("\n".join(filter(None, [*lines, hint()])))


def head_hint(stored: Iterable[tuple[str, Entry]], given: Mapping[str, Any]) -> str:
    """Return what to do if nothing but the classifier does not fit."""
    wanted = dict(stored)
    differing = [key for key, one in wanted.items() if np.shape(given.get(key, 0)) != one.source_shape]
    starts = tuple({layer_of(key) for key, one in wanted.items() if classifier_of(one.path)})
    unexpected = [key for key in given if key not in wanted]
    if not differing or not all(key.startswith(starts) for key in (*differing, *unexpected)):
        return ""
    ways = (
        "redraw_head=jax.random.key(0) draws it anew for these classes, as cnnjax.finetune.replace_head does later; "
        "num_classes=0 leaves it out"
    )
    classes = {shape[0] for key in differing if len(shape := np.shape(given.get(key, 0))) == 1}
    if len(classes) == 1:
        return f"all but the classifier fits: num_classes={classes.pop()} takes that of the weights; {ways}"
    # Kernels with other inputs alone are of images of another size.
    return "" if all(key in given for key in differing) else f"all but the classifier fits: {ways}"


def variant_hint(name: str, source: str, given: Mapping[str, Any]) -> str:
    """Return which variant the weights are of: of equal size for some number of classes, then of equal names."""
    shapes = {key: np.shape(value) for key, value in given.items()}
    statistics = re.compile(r"(.*[./])?(running_mean|running_var|moving_mean|moving_variance)")
    total = sum(int(np.prod(shape)) for key, shape in shapes.items() if not statistics.fullmatch(key))
    # Any dense layer may be the classifier: count as if it had the published number of classes.
    totals = {(total, None)}
    for shape in shapes.values():
        if len(shape) == 2:
            classes, features = (shape[1], shape[0]) if source == "keras" else shape
            totals |= {(total + (published - classes) * (features + 1), classes) for published in (1000, 10)}
    for candidate in list_models():
        info = model_info(candidate)
        for parameters, classes in sorted(totals, key=str):
            if parameters != info.num_params:
                continue
            classes = classes if classes != info.num_classes else None
            for other in sources(candidate):
                if reference_shapes(candidate, source=other, num_classes=classes) == shapes:
                    options = f", num_classes={classes}" if classes else ""
                    options += f", source={other!r}" if other != "torchvision" else ""
                    text = f"these are the weights of {candidate}"
                    if candidate == name and classes:
                        text += f" with {classes} classes: redraw_head=jax.random.key(...) draws another head"
                    return f"{text}; load them with from_state_dict({candidate!r}, state_dict{options})"
    return ""


def size_hint(name: str, shapes: Iterable[tuple[tuple[int, ...], Any]], image_size: int | None) -> str:
    """Return what to do if all that differs is how many inputs dense layers have, as with maps of another size.

    Args:
      name: the variant.
      shapes: of each array, what is expected and what is given.
      image_size: what is expected is for.
    """
    differing = [(expected, tuple(given)) for expected, given in shapes if expected != tuple(given)]
    # Whichever comes first: kernels of other outputs would go with biases of other lengths.
    if not differing or not all(len(a) == len(b) == 2 and (a[0] == b[0]) != (a[1] == b[1]) for a, b in differing):
        return ""
    size = " x ".join(map(str, model_info(name).input_size if image_size is None else (image_size, image_size)))
    return (
        f"{name} flattens its maps, so that its weights fit one size of images, here {size} pixels; if they were "
        "trained with another, say which: image_size=..."
    )
