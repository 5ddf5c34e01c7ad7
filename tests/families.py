"""Which variants stand for their family where a test would take long over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from cnnjax.models import VARIANTS

# Few parameters in many layers, slow to trace.
DEEP = {"densenet_bc_100_12", "densenet_bc_190_40", "resnet164", "resnet1001", "resnet1202", "nasnet_large", "wrn_40_4"}
FAMILIES = sorted({variant.info.family for variant in VARIANTS.values()})


def first_plain(values: Iterable[Any]) -> list[Any]:
    """Return parameters of a test over ``values``, of which all but the first are slow."""
    first, *others = values
    return [
        first,
        *(pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in others),
    ]


def smallest(names: Iterable[str] = VARIANTS) -> list[str]:
    """Return the cheapest of ``names`` to compute of each family, sorted."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name in DEEP, *_cost(name))):
        chosen.setdefault(VARIANTS[name].info.family, name)
    return sorted(chosen.values())


def _cost(name: str) -> tuple[int, int, str]:
    info = VARIANTS[name].info
    return info.num_params, info.min_size, name


def one_each(
    names: Iterable[str] = VARIANTS, *, plain: Iterable[str] | None = None, slow: Iterable[str] = ()
) -> list[Any]:
    """Return parameters of a test over ``names``: all but one of each family, or but those in ``plain``, exhaustive."""
    names = list(names)
    kept = set(smallest(names) if plain is None else plain)
    marks = {name: pytest.mark.slow if name in kept else pytest.mark.exhaustive for name in names}
    return [name if name in kept - set(slow) else pytest.param(name, marks=marks[name]) for name in names]
