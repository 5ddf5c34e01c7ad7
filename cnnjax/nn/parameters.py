"""How layers ask Flax for parameters that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.errors
import jax
import numpy as np


class ShapedParameters:
    """A mixin for layers whose initialisers are called with a shape and a type.

    At every ``apply``, Flax traces the initialiser of each parameter to compare shapes, which takes up to a third of
    the time in which a network is traced. Where the parameter exists, the shape that was asked for says as much.
    """

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, unbox: bool = True, **kwargs: Any) -> Any:
        """Return a parameter, as ``flax.linen.Module.param`` does.

        Raises:
          flax.errors.ScopeParamShapeError: the parameter that is there has another shape.
        """
        layer: Any = self
        if not init_args or not layer.has_variable("params", name):
            return super().param(name, init_fn, *init_args, unbox=unbox, **kwargs)  # type: ignore[misc]
        value = layer.variable("params", name, unbox=unbox).value
        shape = tuple(init_args[0])
        for array in jax.tree.leaves(value):
            if np.shape(array) != shape:
                raise flax.errors.ScopeParamShapeError(name, layer.scope.path_text, np.shape(array), shape)
        return value
