"""How layers ask Flax for parameters that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def _unfilled(key: jax.Array, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
    """Return an array of that shape which takes no memory, and nothing to trace."""
    del key
    return np.broadcast_to(np.zeros((), dtype), shape)


class ShapedParameters:
    """A mixin for layers whose initialisers are called with a shape and a type.

    At every ``apply``, Flax traces the initialiser of each parameter to compare shapes, which takes up to a third of
    the time in which a network is traced. Where the parameter exists, the shape that was asked for says as much.
    """

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **init_kwargs: Any) -> Any:
        """Return a parameter, as ``flax.linen.Module.param`` does."""
        if self.has_variable("params", name):  # type: ignore[attr-defined]
            init_fn = _unfilled
        return super().param(name, init_fn, *init_args, **init_kwargs)  # type: ignore[misc]
