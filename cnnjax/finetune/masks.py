"""Freeze parameters in optax: no update, no state, no share in any norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.finetune.paths import Selection, leaves_by_path, map_by_path, select


def frozen_paths(params: Any, frozen: Selection) -> frozenset[str]:
    """Return the paths of the leaves that ``frozen`` means.

    Args:
      params: parameters, any pytree.
      frozen: what stays as it is: globs over '/'-joined paths (``"stem"``, ``"stage[1-3]/*"``, ``"**/norm*"``, see
        `cnnjax.finetune.paths.is_match`), a function of (path, leaf), or a tree of bools. Empty freezes nothing.
    Raises:
      ValueError: a pattern that matches nothing (near paths are listed); nothing is left to train.
    """
    chosen = select(params, frozen, what="frozen")
    total = len(leaves_by_path(params))
    if len(chosen) == total:
        raise ValueError(f"frozen={_show(frozen)} freezes all {total} parameters; leave out what is to train")
    return chosen


def frozen_mask(params: Any, frozen: Selection) -> Any:
    """Return a tree like ``params``: True where a leaf is frozen. See `frozen_paths` for arguments and errors."""
    chosen = frozen_paths(params, frozen)
    return map_by_path(lambda path, leaf: path in chosen, params)


def trainable_mask(params: Any, frozen: Selection) -> Any:
    """Return a tree like ``params``: True where a leaf trains, which is what optax calls a mask.

    See `frozen_paths` for arguments and errors.

    >>> params = {"stem": {"kernel": 0.0}, "head": {"kernel": 0.0, "bias": 0.0}}
    >>> trainable_mask(params, ["stem", "**/bias"])
    {'head': {'bias': False, 'kernel': True}, 'stem': {'kernel': False}}
    """
    chosen = frozen_paths(params, frozen)
    return map_by_path(lambda path, leaf: path not in chosen, params)


def trainable_part(tree: Any, frozen: Selection) -> Any:
    """Return a tree like ``tree`` without its frozen leaves (``optax.MaskedNode`` stands in their place).

    For example ``optax.tree.norm(trainable_part(grads, frozen))``. See `frozen_paths` for arguments and errors.
    """
    chosen = frozen_paths(tree, frozen)
    return map_by_path(lambda path, leaf: optax.MaskedNode() if path in chosen else leaf, tree)


def freeze(tx: optax.GradientTransformation, params: Any, frozen: Selection) -> optax.GradientTransformationExtraArgs:
    """Return an optimizer that trains what is not frozen and knows nothing of the rest.

    ``tx`` sees the trainable leaves only: its state, its weight decay, its clipping, its accumulation
    (``optax.MultiSteps`` goes inside) and its norms. The update of a frozen leaf is -0.0, the number that changes no
    bit of any other under addition (0.0 would turn -0.0 into 0.0). Call ``optax.apply_updates`` under ``jax.jit``: on
    CPU, an addition outside of it turns subnormal numbers (below 1.2e-38) into zeros, whatever is added.

    Gradients of frozen leaves are still computed unless they are stopped before ``jax.grad``, see `apply_frozen`; in
    their place ``update`` also takes ``optax.MaskedNode``, and returns it.

    >>> params = {"stem": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = freeze(optax.sgd(0.5), params, frozen=["stem"])
    >>> updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    >>> print(optax.apply_updates(params, updates))
    {'head': Array([0.5, 0.5], dtype=float32), 'stem': Array([1., 1.], dtype=float32)}

    Args:
      tx: any optimizer.
      params: the parameters it will train, or a tree of their shapes; any pytree. Only paths are kept.
      frozen: what stays as it is, see `frozen_paths`.
    Returns:
      A transformation whose ``init`` and ``update`` take the same leaves, in dictionaries of any kind.
    Raises:
      ValueError: see `frozen_paths`; from ``init`` and ``update``: other leaves than those of ``params``.
    """
    chosen = frozen_paths(params, frozen)
    known = frozenset(leaves_by_path(params))
    inner = optax.masked(tx, _mask_of(chosen, known))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params, **extra)
        return map_by_path(lambda path, leaf: _no_change(leaf) if path in chosen else leaf, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _mask_of(chosen: frozenset[str], known: frozenset[str]) -> Callable[[Any], Any]:
    def trains(path: str, leaf: Any) -> bool:
        if path not in known:
            raise ValueError(f"freeze was called with other parameters, without {path!r}; call it with these")
        return path not in chosen

    return lambda tree: map_by_path(trains, tree)


def _no_change(leaf: Any) -> Any:
    """Return the update that leaves every bit of a parameter as it is."""
    if isinstance(leaf, optax.MaskedNode) or leaf.dtype == jax.dtypes.float0:
        return leaf
    zeros = jnp.zeros_like(leaf)
    return -zeros if jnp.issubdtype(leaf.dtype, jnp.inexact) else zeros


@dataclasses.dataclass(frozen=True)
class Description:
    """What trains and what is frozen, as a table when it is printed.

    Attributes:
      rows: (path, trainable parameters, frozen parameters) of each group, in the order of computation where names
        number it.
    """

    rows: tuple[tuple[str, int, int], ...]

    @property
    def trainable(self) -> int:
        """Number of parameters that train."""
        return sum(row[1] for row in self.rows)

    @property
    def frozen(self) -> int:
        """Number of parameters that are frozen."""
        return sum(row[2] for row in self.rows)

    def __str__(self) -> str:
        width = max(len("module"), *(len(path) for path, _, _ in self.rows))
        lines = [f"{'module':<{width}} {'trainable':>14} {'frozen':>14}"]
        for path, trainable, frozen in (*self.rows, ("total", self.trainable, self.frozen)):
            lines.append(f"{path:<{width}} {trainable:>14,} {frozen:>14,}")
        return "\n".join(lines)

    __repr__ = __str__


def describe(params: Any, mask: Selection = None, *, frozen: Selection = None, depth: int = 1) -> Description:
    """Return a table of what trains and what is frozen, with counts, to be printed.

    >>> params = {"stem": {"kernel": np.zeros((3, 4))}, "head": {"kernel": np.zeros((4, 2)), "bias": np.zeros(2)}}
    >>> describe(params, frozen=["stem", "**/bias"])
    module      trainable         frozen
    stem                0             12
    head                8              2
    total               8             14

    Args:
      params: the parameters or their shapes, any pytree.
      mask: a tree of bools, True where a leaf trains, as `trainable_mask` returns it.
      frozen: instead of ``mask``: what is frozen, see `frozen_paths`. With neither, everything trains.
      depth: parts of the path that make a row.
    Raises:
      ValueError: both ``mask`` and ``frozen``, a mask of another structure; see `frozen_paths`.
    """
    from cnnjax.finetune.rates import depth_key

    if mask is not None and frozen is not None:
        raise ValueError("describe takes mask (True where a leaf trains) or frozen, not both; leave one out")
    by_path = leaves_by_path(params)
    if mask is not None:
        chosen = frozenset(by_path) - select(params, mask, what="mask")
    else:
        chosen = frozen_paths(params, [] if frozen is None else frozen)
    rows: dict[str, list[int]] = {}
    for path, leaf in by_path.items():
        group = "/".join(path.split("/")[:depth])
        rows.setdefault(group, [0, 0])[path in chosen] += int(np.prod(np.shape(leaf)))
    ordered = sorted(rows, key=lambda group: [depth_key(part) for part in group.split("/")])
    return Description(tuple((group, rows[group][0], rows[group][1]) for group in ordered))


def _show(frozen: Selection) -> str:
    return repr(frozen) if isinstance(frozen, str | list | tuple) else "this"
