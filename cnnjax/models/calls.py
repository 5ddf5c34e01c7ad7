"""Which modules run while a network is traced."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

# How the operations of the module with that place in the list are marked in a traced program.
SCOPE = re.compile(r"module@(\d+)")


@dataclasses.dataclass
class Call:
    """A module that ran.

    Attributes:
      path: in the network, with slashes; empty for the network itself.
      module: a copy outside of the network, for its type and fields.
      output_shape: of the first array that its ``__call__`` returned last; empty if there was none.
    """

    path: str
    module: nn.Module
    output_shape: tuple[int, ...] = ()


@contextlib.contextmanager
def record_calls() -> Iterator[list[Call]]:
    """Collect the modules that run inside the ``with`` block, each once, in the order in which they start.

    The operations of a traced program carry the place of their innermost module in the list, see `SCOPE`.
    """
    calls: list[Call] = []
    places: dict[tuple[str, ...], int] = {}

    def record(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        place = places.setdefault(module.path, len(places))
        if place == len(calls):
            calls.append(Call("/".join(module.path), module.clone(parent=None)))
        with jax.named_scope(f"module@{place}"):
            output = function(*args, **kwargs)
            # What hands on its input, as dropout does in evaluation, would leave no operation in a traced program.
            if args and output is args[0] and isinstance(output, jax.Array):
                output = checkpoint_name(output, type(module).__name__)
        if context.method_name == "__call__":
            arrays = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "shape")]
            if arrays:
                calls[place].output_shape = tuple(arrays[0].shape)
        return output

    with nn.intercept_methods(record):
        yield calls
