"""Auxiliary heads that files of weights have or lack, whatever the network has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cnnjax.models import create_model, model_info
from cnnjax.pretrained.plan import reference_shapes

# The field with which a family's networks have such heads.
FIELDS: Mapping[str, str] = MappingProxyType(
    {"deeplabv3": "aux", "fcn": "aux", "inception_v1": "aux_classifiers", "inception_v3": "aux_classifiers"}
)


def auxiliary_field(name: str, fields: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return the field of auxiliary heads and its value, None of a network that never has any.

    Args:
      name: the variant.
      fields: of the network.
    """
    field = FIELDS.get(model_info(name).family)
    if field is None or getattr(model := create_model(name, **fields), "naive", False):
        return None
    return field, getattr(model, field)


def fit_auxiliary_heads(
    name: str, arrays: Mapping[str, Any], naming: str, fields: Mapping[str, Any]
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return arrays without auxiliary heads that the network lacks, and fields without heads that the file lacks.

    So torchvision loads its own files: GoogLeNet's has heads that its network is without.

    Args:
      name: the variant.
      arrays: by name, as `cnnjax.pretrained.convert.named_arrays` returns them.
      naming: whose names they are.
      fields: of the network.
    """
    found = auxiliary_field(name, fields)
    if found is None:
        return arrays, dict(fields)
    field, wanted = found
    with_heads, without = (
        reference_shapes(name, source=naming, **(dict(fields) | {field: value})).keys() for value in (True, False)
    )
    heads = with_heads - without
    if wanted:
        return arrays, dict(fields) | ({} if heads & arrays.keys() else {field: False})
    return {key: value for key, value in arrays.items() if key not in heads}, dict(fields)
