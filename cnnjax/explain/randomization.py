"""Does a map depend on what the network learnt: maps of networks whose layers are drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax.explain.layers import list_layers
from cnnjax.explain.quality import method_target
from cnnjax.explain.targets import Target, check_images


class Randomization(NamedTuple):
    """How much of a map is left as layers are drawn anew, from the top of the network down.

    Attributes:
      layers: paths of what was drawn anew, each together with those before it.
      correlation: float32[layers, batch], Spearman's rank correlation with the map before; NaN where one of both is
        constant.
      absolute: float32[layers, batch], the same of absolute values, which does not see signs.
    """

    layers: tuple[str, ...]
    correlation: np.ndarray
    absolute: np.ndarray


# Where layers start before they learn, by the name of the parameter or statistic.
STARTS = {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0}


def looks_untrained(variables: Mapping[str, Any]) -> bool:
    """Return whether a network's biases, scales and running statistics are all where they start.

    Maps of drawn weights mean nothing: what they show is the architecture and the image. Training moves every bias and
    every scale. A network that has none of them cannot be told from a trained one, and gives False.
    """
    flat = traverse_util.flatten_dict({name: dict(tree) for name, tree in variables.items()})
    known = [(STARTS[path[-1]], leaf) for path, leaf in flat.items() if path[-1] in STARTS]
    return bool(known) and all(bool((np.asarray(leaf, np.float32) == start).all()) for start, leaf in known)


def _ranks(values: jax.Array) -> jax.Array:
    """Return the ranks of each row's values from 0; equal values share the mean of theirs."""

    def of_row(row: jax.Array) -> jax.Array:
        ordered = jnp.sort(row)
        first, end = (jnp.searchsorted(ordered, row, side=side) for side in ("left", "right"))
        return (first + end - 1).astype(jnp.float32) / 2

    return jax.vmap(of_row)(values)


def _rank_correlation(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return Spearman's rank correlation of each row."""
    one, other = (ranks - ranks.mean(1, keepdims=True) for ranks in (_ranks(one), _ranks(other)))
    sizes = jnp.sqrt((one**2).sum(1)) * jnp.sqrt((other**2).sum(1))
    return jnp.where(sizes > 0, (one * other).sum(1) / jnp.where(sizes > 0, sizes, 1), jnp.nan)


def _owners(model: nn.Module, variables: Mapping[str, Any], images: jax.Array, kwargs: Mapping[str, Any]) -> list[str]:
    """Return the paths of modules with parameters of their own, the last that runs first."""
    paths = ["/".join(path[:-1]) for path in traverse_util.flatten_dict(variables["params"])]
    order = {layer.path: number for number, layer in enumerate(list_layers(model, variables, images, **kwargs))}

    def place(path: str) -> int:
        # A module that is not called by itself runs within the one that holds it; the network itself ends last.
        while path and path not in order:
            path = path.rpartition("/")[0]
        return order.get(path, len(order))

    return sorted(dict.fromkeys(paths), key=place, reverse=True)


def randomization(
    method: Callable[..., Any],
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target = None,
    *,
    key: jax.Array | None = None,
    layers: Sequence[str] | None = None,
    **kwargs: Any,
) -> Randomization:
    """Return how similar a map stays as the network's layers are drawn anew one after the other, the last one first.

    Maps that stay alike when nothing of what was learnt is left show the image, as an edge detector does, and not what
    the network sees.

    Source: Adebayo et al. 2018, arXiv:1810.03292, section 3.1 (cascading randomization, rank correlation); differs:
    running statistics of normalisation layers start anew with their layer.

    Args:
      method: one of `cnnjax.explain`, such as ``explain.saliency``, or a function that is called like it.
      model: the network, any Linen module.
      variables: its variables.
      images: float[batch, height, width, channels], as the network takes them.
      target: as in `cnnjax.explain.saliency`; a top class is that of the network before. Not None with ``layer``.
      key: of the drawn weights, which ``model.init`` draws; None for ``jax.random.key(0)``.
      layers: paths of layers or stages in the order in which they are drawn anew, such as ["head", "stage4"]; None for
        each module with parameters of its own, from the last that runs to the first.
      **kwargs: for the method.
    Raises:
      ValueError: as the method; a layer without a target, or one without parameters.
    """
    images = check_images(images)
    target = method_target(method, model, variables, images, target, kwargs)
    drawn = model.init(jax.random.key(0) if key is None else key, images[:1])
    owners = _owners(model, variables, images, {})
    chosen = owners if layers is None else list(layers)
    for path in chosen:
        if not any(owner == path or owner.startswith(f"{path}/") for owner in owners):
            raise ValueError(f"{type(model).__name__} has no parameters at {path!r}; layers with some are {owners}")
    compute: Any = jax.jit(
        lambda variables: method(model, variables, images, target, **kwargs).reshape(len(images), -1)
    )
    compare: Any = jax.jit(
        lambda one, other: (_rank_correlation(one, other), _rank_correlation(jnp.abs(one), jnp.abs(other)))
    )
    current = {name: traverse_util.flatten_dict(dict(tree), sep="/") for name, tree in variables.items()}
    fresh = {name: traverse_util.flatten_dict(dict(drawn[name]), sep="/") for name in current}
    before, found = compute(variables), []
    for path in chosen:
        for name, leaves in current.items():
            for leaf in leaves:
                owner = leaf.rpartition("/")[0]
                # A module's own parameters are not those of modules inside it, unless a stage is named.
                if owner == path or (layers is not None and owner.startswith(f"{path}/")):
                    leaves[leaf] = fresh[name][leaf]
        changed = {name: traverse_util.unflatten_dict(leaves, sep="/") for name, leaves in current.items()}
        found.append(jax.device_get(compare(before, compute(changed))))
    signed, absolute = (np.stack(part) for part in zip(*found, strict=True))
    return Randomization(tuple(chosen), signed, absolute)
