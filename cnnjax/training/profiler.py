"""Traces of a run's steps, for TensorBoard's profile plugin and Perfetto."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from cnnjax.runs.directory import RunDirectory


@contextlib.contextmanager
def profiler(steps: tuple[int, int] | None, directory: RunDirectory | None) -> Iterator[Callable[[int, Any], None]]:
    """Yield what has to be called before each step, with the steps taken and their sums; it traces the wanted ones.

    Args:
      steps: the first and the last to trace, counted from 1; None: none.
      directory: of the run; None in a process that writes nothing.
    """
    tracing = False

    def before(step: int, sums: Any) -> None:
        nonlocal tracing
        if steps is None or directory is None:
            return
        if not tracing and step == steps[0] - 1:
            jax.block_until_ready(sums)
            jax.profiler.start_trace(str(directory.profile_directory))
            tracing = True
        elif tracing and step >= steps[1]:
            jax.block_until_ready(sums)
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield before
    finally:
        if tracing:
            jax.profiler.stop_trace()
