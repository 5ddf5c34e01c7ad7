"""What an optimizer keeps of parameters, moved between two states that freeze other parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Moved(NamedTuple):
    """The state of an optimizer for another set of trainable parameters.

    Attributes:
      leaves: path -> array: what both sets share as it was, what is new as it starts.
      started, dropped: owners of the arrays that are new, and of those that are gone.
    """

    leaves: dict[str, Any]
    started: tuple[str, ...]
    dropped: tuple[str, ...]


def owner(path: str, params: Collection[str]) -> str | None:
    """Return the parameter that an array of an optimizer belongs to: the longest that its path ends with, or None.

    >>> owner("opt_state/0/mu/stem/kernel", {"stem/kernel", "head/kernel"})
    'stem/kernel'
    """
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in params), None)


def move_moments(old: Mapping[str, Any], fresh: Mapping[str, Any], owner_of: Callable[[str], str | None]) -> Moved:
    """Move what an optimizer keeps to a state that freezes other parameters.

    Args:
      old: path -> array, before.
      fresh: path -> array, as the other state starts.
      owner_of: which parameter a path belongs to; what belongs to None is neither begun nor dropped.
    """
    started = {path: name for path in fresh.keys() - old.keys() if (name := owner_of(path)) is not None}
    dropped = {path: name for path in old.keys() - fresh.keys() if (name := owner_of(path)) is not None}
    leaves = {path: leaf for path, leaf in old.items() if path not in dropped}
    leaves |= {path: fresh[path] for path in started}
    return Moved(leaves, tuple(sorted(set(started.values()))), tuple(sorted(set(dropped.values()))))
