"""Batch normalisation on its stored statistics, in any part of any network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def use_running_averages(where: Callable[[str], bool]) -> Iterator[dict[str, bool]]:
    """Let batch normalisations that run inside the ``with`` block use and keep their stored statistics.

    Works on every ``flax.linen.BatchNorm`` (ours is one) of any module, however it was told to normalise. Like any
    Linen interceptor it acts while a function is traced: inside of ``jax.jit``, not around it.

    Args:
      where: a function of the module's path with slashes.
    Yields:
      path -> whether it was chosen, of the batch normalisations that have run.
    """
    seen: dict[str, bool] = {}

    def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__":
            return function(*args, **kwargs)
        path = "/".join(module.path)
        seen[path] = where(path)
        if not seen[path]:
            return function(*args, **kwargs)
        # Linen allows one of field and argument; the field is set for this call alone.
        x, *rest = args if args else (kwargs.pop("x"),)
        kwargs.pop("use_running_average", None)
        before = module.use_running_average
        object.__setattr__(module, "use_running_average", True)
        try:
            return function(x, *rest[1:], **kwargs)
        finally:
            object.__setattr__(module, "use_running_average", before)

    with nn.intercept_methods(intercept):
        yield seen
