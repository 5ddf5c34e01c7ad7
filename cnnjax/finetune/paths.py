"""Which leaves of a tree of parameters a pattern means."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax

# Patterns, a function of (path, leaf), or a tree of bools.
Selection = str | Sequence[str] | Callable[[str, Any], bool] | Any


def key_path(keys: Sequence[Any]) -> str:
    """Return the keys of a leaf, as ``jax.tree_util`` gives them, joined by slashes.

    The variables of ``flax.nnx`` keep their array in an attribute ``value``, which is left out.
    """
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys]
    if len(parts) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of any pytree by path, in the order of ``jax.tree.leaves``."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    by_path = {key_path(keys): leaf for keys, leaf in leaves}
    if len(by_path) != len(leaves):
        raise ValueError(f"{len(leaves) - len(by_path)} leaves share their path with another; rename their keys")
    return by_path


def map_by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Map ``function`` of (path, leaf) over a tree; what optax has masked out is a leaf too."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: function(key_path(keys), leaf), tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )


@functools.lru_cache(maxsize=1024)
def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression that matches, in full, the paths that ``pattern`` means.

    Raises:
      ValueError: an empty pattern, one with a slash at an end, or a ``[`` that is not closed.
    """
    if not pattern or pattern.startswith("/") or pattern.endswith("/"):
        raise ValueError(f"a pattern must be a path without slashes at its ends, such as 'stage1/*', got {pattern!r}")
    regex, place = "", 0
    while place < len(pattern):
        rest = pattern[place:]
        at_start = place == 0 or pattern[place - 1] == "/"
        if at_start and rest.startswith("**/"):
            regex, place = regex + "(?:.*/)?", place + 3
        elif rest.startswith("**"):
            regex, place = regex + ".*", place + 2
        elif rest[0] == "*":
            regex, place = regex + "[^/]*", place + 1
        elif rest[0] == "?":
            regex, place = regex + "[^/]", place + 1
        elif rest[0] == "[":
            group = re.match(r"\[(!?)(\]?[^\]]*)\]", rest)
            if group is None or not group[2]:
                raise ValueError(f"pattern {pattern!r} opens a [ that it does not close; write [[] for the character")
            characters = group[2].replace("\\", r"\\").replace("^", r"\^").replace("[", r"\[").replace("]", r"\]")
            regex, place = regex + (f"[^/{characters}]" if group[1] else f"[{characters}]"), place + group.end()
        else:
            regex, place = regex + re.escape(rest[0]), place + 1
    try:
        return re.compile(rf"(?:{regex})(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} cannot be read: {error}") from error


def is_match(path: str, patterns: str | Iterable[str]) -> bool:
    """Return whether one of ``patterns`` means the leaf or module at ``path``.

    A pattern is matched with the whole path of the leaf and with that of each module it is in, so that a pattern that
    names a module means everything below it.

    ========== =====================================================================================================
    ``*``      any characters but a slash, none too
    ``**``     any characters, slashes too; ``**/`` at the start or behind a slash also stands for nothing
    ``?``      one character but a slash
    ``[1-3]``  one of these characters; ``[!1-3]`` one that is none of these, and no slash
    ========== =====================================================================================================

    Everything else stands for itself; capital letters count. ``[*]`` is a star.

    >>> is_match("stage1/block2/norm1/scale", "stage[1-3]/*")
    True
    >>> is_match("stage1/block2/norm1/scale", "**/norm*")
    True
    >>> is_match("stage10/block1/conv1/kernel", "stage1")
    False
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(pattern_regex(pattern).fullmatch(path) for pattern in patterns)


def near_paths(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return paths of leaves and modules like ``pattern``, or else the top-level names."""
    nodes: dict[str, None] = {}
    for path in paths:
        parts = path.split("/")
        nodes |= dict.fromkeys("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    near = difflib.get_close_matches(pattern, nodes, n=5, cutoff=0.6)
    return near or [node for node in nodes if "/" not in node]


def select(tree: Any, selection: Selection, *, what: str) -> frozenset[str]:
    """Return the paths of the leaves of ``tree`` that ``selection`` means.

    Args:
      tree: any pytree.
      selection: a pattern or several (see `is_match`), a function of (path, leaf), or a tree of bools like ``tree``.
      what: the argument it came in, for messages.
    Raises:
      ValueError: a pattern or a function that means no leaf (near paths are listed), or a tree of another structure.
    """
    by_path = leaves_by_path(tree)
    if callable(selection):
        chosen = frozenset(path for path, leaf in by_path.items() if selection(path, leaf))
        if not chosen:
            raise ValueError(f"{what}: the function returns True for none of the {len(by_path)} leaves")
        return chosen
    patterns = [selection] if isinstance(selection, str) else selection
    if isinstance(patterns, list | tuple | set | frozenset) and all(isinstance(pattern, str) for pattern in patterns):
        for pattern in patterns:
            if not any(is_match(path, pattern) for path in by_path):
                near = ", ".join(near_paths(pattern, by_path))
                raise ValueError(f"{what}: pattern {pattern!r} matches no parameter; near paths are {near}")
        return frozenset(path for path in by_path if is_match(path, patterns))
    flags = leaves_by_path(selection)
    if flags.keys() != by_path.keys():
        odd = sorted(flags.keys() ^ by_path.keys())
        raise ValueError(
            f"{what}: the mask must have one bool for each leaf of the parameters; {len(odd)} differ, such as {odd[0]}"
        )
    if bad := [path for path, flag in flags.items() if not isinstance(flag, bool) and getattr(flag, "shape", None)]:
        raise ValueError(f"{what}: the mask must hold one bool a leaf, got an array at {bad[0]}")
    return frozenset(path for path, flag in flags.items() if bool(flag))


def last_match(path: str, values: Mapping[str, Any], default: Any) -> Any:
    """Return the value of the last pattern that means ``path``, ``default`` where there is none."""
    for pattern in reversed(list(values)):
        if is_match(path, pattern):
            return values[pattern]
    return default
