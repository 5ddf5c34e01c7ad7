"""Which array of a network is which of another library's: names, layouts and shapes, in the order of the network."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax.models import create_model, model_info
from cnnjax.models.calls import record_calls
from cnnjax.pretrained.layouts import Layout, default_layout, leaf_names
from cnnjax.pretrained.names import OWN, SOURCES, Absent, Rules


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array: where it is with us and in the source.

    Attributes:
      collection: "params" or "batch_stats".
      path: ours within the collection, with slashes.
      name: the source's, or `Absent` where it stores none.
      layout: from our array to the source's and back.
      shape, dtype: of our array.
    """

    collection: str
    path: str
    name: str | Absent
    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape of the source's array."""
        return self.layout.source_shape(self.shape)

    @property
    def where(self) -> str:
        """Our side of a message."""
        return f"ours: {self.collection}/{self.path} {list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All entries of a model in one source, in the order in which the network runs.

    Attributes:
      entries: one for each array of the network.
      constants: arrays that the source stores, and the network has none for.
      first_kernel: path of the first convolution's.
      channels: of the network's images.
    """

    entries: tuple[Entry, ...]
    constants: Mapping[str, np.ndarray]
    first_kernel: str
    channels: int


def sources(name: str) -> list[str]:
    """Return the sources whose weights a variant converts from and to.

    Every variant has "cnnjax", our own names and arrays, and "torch", a PyTorch state dict under our own names, with
    dots for slashes.

    Args:
      name: a variant, see `cnnjax.list_models`.
    """
    return [source for source in SOURCES if source in _all_rules(name, _published_model(name))]


def reference_shapes(
    name: str,
    *,
    source: str = "torchvision",
    num_classes: int | None = None,
    image_size: int | None = None,
    **fields: Any,
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the arrays that `cnnjax.pretrained.from_state_dict` expects.

    Args:
      name: a variant, see `cnnjax.list_models`.
      source: as in `cnnjax.pretrained.from_state_dict`.
      num_classes: outputs of the classifier; None means the published number.
      image_size: as there.
      **fields: other fields of the network that decide shapes.
    """
    plan = plan_of(name, source, variant_model(name, num_classes, fields), image_size=image_size)
    return {entry.name: entry.source_shape for entry in plan.entries if isinstance(entry.name, str)}


def variant_model(name: str, num_classes: int | None, fields: Mapping[str, Any]) -> nn.Module:
    """Return a variant, with the published number of classes if none is given."""
    if num_classes is None:
        num_classes = model_info(name).num_classes
    return create_model(name, **({} if num_classes is None else {"num_classes": num_classes}), **fields)


def _published_model(name: str) -> nn.Module:
    return variant_model(name, None, {})


def _images(name: str, channels: int, image_size: int | None) -> jax.ShapeDtypeStruct:
    size = model_info(name).input_size if image_size is None else (image_size, image_size)
    return jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)


def _all_rules(name: str, model: nn.Module) -> dict[str, Rules]:
    """Return the rules of a variant by source; those of `OWN` exist even for a family without a file."""
    module = f"cnnjax.pretrained.rules.{model_info(name).family}"
    rules = {} if importlib.util.find_spec(module) is None else importlib.import_module(module).rules(name, model)
    return {source: Rules() for source in OWN} | dict(rules)


def plan_of(
    name: str, source: str, model: nn.Module, channels: int | None = None, image_size: int | None = None
) -> Plan:
    """Pair each array of the network with the source's name and layout.

    Args:
      name: the variant.
      source: see `cnnjax.pretrained.from_state_dict`.
      model: the network itself.
      channels: of its images; None is the variant's own number.
      image_size: of its images; None is the published size.
    Raises:
      ValueError: unknown source, or one without this variant.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}, got {source!r}")
    rules = _all_rules(name, model)
    if source not in rules:
        raise ValueError(f"{name} has no weights in {source!r}; its sources are {', '.join(map(repr, rules))}")
    channels = channels or model_info(name).channels
    layers, arrays = trace(name, model, channels, image_size)
    entries: list[Entry] = []
    for (collection, path), value in arrays.items():
        layer_path, _, leaf = path.rpartition("/")
        layer = layers[layer_path]
        try:
            theirs = rules[source].name(path, leaf_names(layer, source), source)
        except KeyError as error:
            raise ValueError(f"{name}: {error.args[0]}") from error
        layout = rules[source].layout(path) or default_layout(layer, leaf, value.shape, source)
        entries.append(Entry(collection, path, theirs, layout, value.shape, np.dtype(value.dtype)))
    _check_unique(name, source, entries)
    first = next(entry for entry in entries if entry.path.endswith("kernel"))
    return Plan(tuple(entries), rules[source].constants, first.path, channels)


@functools.lru_cache(maxsize=8)
def trace(
    name: str, model: nn.Module, channels: int, image_size: int | None
) -> tuple[dict[str, nn.Module], dict[tuple[str, str], jax.ShapeDtypeStruct]]:
    """Run the network by shape inference; return its layers and its arrays by path, in the order of first use."""
    with record_calls() as calls:
        variables = jax.eval_shape(model.init, jax.random.key(0), _images(name, channels, image_size))
    layers = {call.path: call.module for call in calls}
    order = {path: index for index, path in enumerate(layers)}
    arrays = {
        (collection, path): value
        for collection in ("params", "batch_stats")
        for path, value in traverse_util.flatten_dict(variables.get(collection, {}), sep="/").items()
    }
    return layers, dict(sorted(arrays.items(), key=lambda item: order[item[0][1].rpartition("/")[0]]))


def _check_unique(name: str, source: str, entries: Iterable[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        if isinstance(entry.name, str) and (other := seen.setdefault(entry.name, entry)) is not entry:
            raise ValueError(f"{name}: the {source} rules give {entry.name} to both {other.path} and {entry.path}")


def channels_of(plan: Plan, state_dict: Mapping[str, Any]) -> int:
    """Return the number of input channels that the weights' first convolution takes."""
    first = next(entry for entry in plan.entries if entry.path == plan.first_kernel)
    given = np.shape(state_dict.get(first.name, 0.0)) if isinstance(first.name, str) else ()
    if len(first.shape) != 4 or len(given) != 4:
        return plan.channels
    shape = first.layout.to_ours(np.broadcast_to(np.int8(0), given)).shape
    # A kernel that differs in more than its inputs is another one.
    if (*shape[:2], shape[3]) != (*first.shape[:2], first.shape[3]):
        return plan.channels
    return plan.channels * shape[2] // first.shape[2] or plan.channels


def check_channels(name: str, plan: Plan, wanted: Plan) -> None:
    """Raise an error unless networks for other numbers of channels differ in a first kernel with one input each."""
    differing = [a.path for a, b in zip(plan.entries, wanted.entries, strict=True) if a.shape != b.shape]
    first = next(entry for entry in plan.entries if entry.path == plan.first_kernel)
    others = [path for path in differing if path != plan.first_kernel]
    if others or (differing and (len(first.shape) != 4 or first.shape[2] != plan.channels)):
        raise ValueError(
            f"{name} cannot take its weights for {plan.channels} channels with {wanted.channels}: the shape of "
            f"{(others or differing)[0]} depends on that too; give images with {plan.channels} channels"
        )


def source_names(plan: Plan) -> list[str]:
    """Return all names that the source stores."""
    return [*(one.name for one in plan.entries if isinstance(one.name, str)), *plan.constants]


def layer_of(name: str) -> str:
    """Return the name of the layer of an array, with what is behind it: ``fc.`` of ``fc.weight``."""
    return name[: max(name.rfind("."), name.rfind("/")) + 1]
