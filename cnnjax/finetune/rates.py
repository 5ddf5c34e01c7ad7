"""Learning rates of their own for parts of a network."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from cnnjax.finetune.paths import is_match, last_match, leaves_by_path, map_by_path, select

# Where parts that carry no number stand among those that do.
FIRST = ("stem", "encoder")
LAST = ("decoder", "aux", "head")
# Names that a layer's path is made of, and those that all are the last layer.
LAYER = re.compile(r"stem|encoder|decoder|stage\d+|block\d+")
HEAD = re.compile(r"head\w*|aux\d+")


def scale_learning_rate(
    tx: optax.GradientTransformation, params: Any, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer whose updates are multiplied by a factor that depends on the parameter.

    As the learning rate multiplies an optimizer's whole update, this is a learning rate of ``factor`` times that of
    ``tx``, for momentum and for the weight decay of ``adamw`` too.

    >>> import jax.numpy as jnp
    >>> params = {"stage1": jnp.ones(1), "head": jnp.ones(1)}
    >>> tx = scale_learning_rate(optax.sgd(0.1), params, {"head": 10.0})
    >>> tx.update(params, tx.init(params))[0]
    {'head': Array([-1.], dtype=float32), 'stage1': Array([-0.1], dtype=float32)}

    Args:
      tx: any optimizer.
      params: the parameters it will train, or their shapes; any pytree.
      factors: pattern (see `cnnjax.finetune.freeze`) -> factor; where several match, the last one counts. Leaves that
        none matches keep their learning rate.
    Raises:
      ValueError: a pattern that matches nothing (near paths are listed); a factor that is not above 0 and finite.
    """
    for pattern, factor in factors.items():
        select(params, pattern, what="scale_learning_rate")
        if not 0 < factor < math.inf:
            raise ValueError(
                f"the learning-rate factor of {pattern!r} must be above 0 and finite, got {factor}; to keep parameters "
                "as they are, use freeze"
            )
    by_path = {path: last_match(path, factors, 1.0) for path in leaves_by_path(params)}
    return _scale(tx, by_path)


def _scale(tx: optax.GradientTransformation, factors: Mapping[str, float]) -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(path: str, leaf: Any) -> Any:
            if path not in factors:
                raise ValueError(f"the learning rates were given for other parameters, without {path!r}")
            unchanged = isinstance(leaf, optax.MaskedNode) or factors[path] == 1 or leaf.dtype == jax.dtypes.float0
            return leaf if unchanged else leaf * factors[path]

        return map_by_path(scaled, updates), state

    return optax.chain(tx, optax.GradientTransformation(optax.init_empty_state, update))


def layerwise_decay(
    tx: optax.GradientTransformation, params: Any, decay: float, *, order: Sequence[str] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer whose learning rate falls by a factor with each layer, from the head down.

    learning rate of layer l = decay^(L - l) * that of ``tx``, where the head is layer L. Layers are the blocks of the
    stages; the stem is the first and the head, with auxiliary heads, the last.

    Source: Bao et al. 2021, arXiv:2106.08254, section 3.2 (layer-wise decay when fine-tuning); differs: blocks are the
    layers of a convolutional network.

    Args:
      tx: any optimizer.
      params: the parameters it will train, or their shapes; any pytree.
      decay: above 0 and at most 1.
      order: patterns of the layers, from the input to the output, for networks whose names do not tell: each parameter
        belongs to the first pattern that matches it.
    Raises:
      ValueError: an impossible ``decay``; names that do not tell the order (give ``order``); an ``order`` with a
        pattern that matches nothing, or that leaves a parameter out.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
    depths = layer_depths(params, order)
    last = max(depths.values())
    return _scale(tx, {path: decay ** (last - depth) for path, depth in depths.items()})


def layer_depths(params: Any, order: Sequence[str] | None = None) -> dict[str, int]:
    """Return the layer of each leaf by path, counting from 0 at the input. See `layerwise_decay`."""
    paths = list(leaves_by_path(params))
    if order is not None:
        for pattern in order:
            select(params, pattern, what="order")
        depths = {}
        for path in paths:
            found = [place for place, pattern in enumerate(order) if is_match(path, pattern)]
            if not found:
                raise ValueError(f"order must match every parameter, and leaves out {path!r}; add a pattern for it")
            depths[path] = found[0]
        return depths
    layers: dict[tuple[Any, ...], list[str]] = {}
    for path in paths:
        first, *_ = parts = path.split("/")
        if not LAYER.fullmatch(first) and not HEAD.fullmatch(first):
            raise ValueError(
                f"the name {first!r} does not tell at which depth it is; give order=[patterns from input to output]"
            )
        within = itertools.takewhile(LAYER.fullmatch, parts[:-1])
        key = ((3,),) if HEAD.fullmatch(first) else tuple(depth_key(part) for part in within)
        layers.setdefault(key, []).append(path)
    return {path: depth for depth, key in enumerate(sorted(layers)) for path in layers[key]}


def depth_key(part: str) -> tuple[int, int, str, int]:
    """Return what sorts names of modules by depth: stem, numbers in order, head."""
    word, number = re.fullmatch(r"(.*?)(\d*)", part, re.DOTALL).groups()  # type: ignore[union-attr]
    if word in FIRST:
        rank, place = 0, FIRST.index(word)
    elif word in LAST or word.startswith("head"):
        rank, place = (2, 0) if word == "decoder" else (3, LAST.index(word) if word in LAST else len(LAST))
    else:
        rank, place = 1, 0
    return rank, place, word, int(number or 0)
