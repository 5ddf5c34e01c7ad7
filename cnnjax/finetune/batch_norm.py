"""Frozen batch normalisation, and which running statistics are frozen with the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from cnnjax.finetune.paths import is_match, leaves_by_path, near_paths
from cnnjax.nn.building import use_running_averages


@contextlib.contextmanager
def frozen_batch_norm(patterns: str | Sequence[str]) -> Iterator[None]:
    """Let the named batch normalisations use their stored statistics and leave them as they are, in training mode too.

    Works for any Linen module that contains ``nn.BatchNorm``, and acts while the network is traced, so that it belongs
    inside of the compiled function::

        @jax.jit
        def loss(params):
            with frozen_batch_norm(["stem", "stage[1-3]"]):
                logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])

    Args:
      patterns: of paths of modules, as in `freeze`; a pattern that names a stage means all normalisations in it.
    Raises:
      ValueError: at the end of the block: no batch normalisation ran in it that a pattern matches (near paths are
        listed), for example because the block is around a function that was compiled before.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    with use_running_averages(lambda path: is_match(path, patterns)) as seen:
        yield
    if not seen:
        raise ValueError(
            "no batch normalisation was traced inside of frozen_batch_norm; put the block into the compiled function, "
            "around the network's apply"
        )
    for pattern in patterns:
        if not any(is_match(path, pattern) for path in seen):
            near = ", ".join(near_paths(pattern, seen))
            raise ValueError(f"frozen_batch_norm: pattern {pattern!r} matches no batch normalisation; near are {near}")


def frozen_statistics(params: Any, batch_stats: Any, frozen: Collection[str]) -> frozenset[str]:
    """Return the paths of the running statistics that are frozen with the parameters.

    Statistics are frozen if the nearest module around them that has parameters has only frozen ones: for a batch
    normalisation with scale or bias, that module is itself.

    Args:
      params: the parameters, or their shapes.
      batch_stats: the running statistics, or their shapes.
      frozen: paths of the frozen parameters.
    """
    paths = list(leaves_by_path(params))
    chosen: set[str] = set()
    if not paths:
        return frozenset()
    for path in leaves_by_path(batch_stats):
        module = path
        inside: list[str] = []
        while not inside:
            module = module.rpartition("/")[0]
            inside = [other for other in paths if other.startswith(f"{module}/") or not module]
        if all(other in frozen for other in inside):
            chosen.add(path)
    return frozenset(chosen)
