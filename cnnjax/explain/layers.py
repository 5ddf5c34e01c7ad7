"""Layers of a network by name: which there are, what they return, and what a score's gradient is there."""

from __future__ import annotations

import collections
import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.explain.targets import Target, naming_sizes, pick

COLLECTION, SHIFT = "explained", "shift"


class Layer(NamedTuple):
    """A module that ran.

    Attributes:
      path: in the network, with slashes.
      shape: of the array that it returned last.
      after_conv: whether it is a convolution, holds one, or runs after one.
      runs: how often it ran.
    """

    path: str
    shape: tuple[int, ...]
    after_conv: bool
    runs: int

    @property
    def spatial(self) -> bool:
        """Whether its output has several positions."""
        return len(self.shape) == 4 and self.shape[1] * self.shape[2] > 1


def list_layers(model: nn.Module, variables: Mapping[str, Any], images: Any, **kwargs: Any) -> list[Layer]:
    """Return the modules that run, in the order in which they finish, those that return no array left out.

    Args:
      model: the network.
      variables: its variables, or their shapes.
      images: float[batch, height, width, channels], or its shape.
      **kwargs: for ``model.apply``.
    """
    found: dict[str, Layer] = {}
    runs: collections.Counter[str] = collections.Counter()
    open_modules: list[tuple[str, ...]] = []
    convolved = False

    def record(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal convolved
        module = context.module
        # A method that calls its parent class's of the same name is one run.
        inner = module.path in open_modules
        open_modules.append(module.path)
        try:
            output = function(*args, **kwargs)
        finally:
            open_modules.pop()
        if inner or context.method_name != "__call__" or not module.path:
            return output
        convolved |= isinstance(module, nn.Conv | nn.ConvTranspose | nn.ConvLocal)
        path = "/".join(module.path)
        runs[path] += 1
        if hasattr(output, "shape"):
            # In the order in which they finish, whatever ran before.
            found.pop(path, None)
            found[path] = Layer(path, tuple(output.shape), convolved, runs[path])
        return output

    with naming_sizes(model, images), nn.intercept_methods(record):
        jax.eval_shape(lambda variables, images: model.apply(variables, images, **kwargs), variables, images)
    return list(found.values())


def find_layer(
    model: nn.Module, variables: Mapping[str, Any], images: Any, layer: str | None, kwargs: Mapping[str, Any]
) -> str:
    """Return the path of a layer whose output has positions; None is the last one that follows a convolution.

    In a network that returns maps itself, such as one for segmentation, layers of its ``head`` are passed over.

    Raises:
      ValueError: no such layer (near names are listed), a layer that has no positions or runs more than once, or a
        network without convolutions.
    """
    layers = list_layers(model, variables, images, **kwargs)
    known = {found.path: found for found in layers}
    spatial = [found.path for found in layers if found.spatial]
    if layer is None:
        candidates = [found for found in layers if found.spatial and found.after_conv and found.runs == 1]
        if not candidates:
            raise ValueError(
                f"{type(model).__name__} has no convolutional layer with more than one position at images of "
                f"{images.shape[1]}x{images.shape[2]}, so that it has no class activation map; saliency, "
                "input_x_gradient, smooth_grad, integrated_gradients, occlusion and rise explain any network"
            )
        outputs = jax.eval_shape(lambda v, x: model.apply(v, x, **kwargs), variables, images)
        if getattr(outputs, "ndim", 0) == 4:
            candidates = [found for found in candidates if found.path.split("/")[0] != "head"] or candidates
        return candidates[-1].path
    if layer not in known:
        near = difflib.get_close_matches(layer, known, n=5, cutoff=0.4) or [path for path in known if "/" not in path]
        raise ValueError(f"{type(model).__name__} runs no layer {layer!r}; near ones are {', '.join(near)}")
    if not known[layer].spatial:
        raise ValueError(
            f"layer {layer!r} returns shape {known[layer].shape}, without height and width; layers with positions are "
            f"{', '.join(spatial[-5:]) or 'none in this network'}"
        )
    if known[layer].runs > 1:
        raise ValueError(f"layer {layer!r} runs {known[layer].runs} times, so that its map is ambiguous; take another")
    return layer


def activations_and_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target,
    layer: str,
    kwargs: Mapping[str, Any],
) -> tuple[jax.Array, jax.Array]:
    """Return a layer's output and the gradient of the score there, both float32[batch, height, width, channels].

    One pass forward, and one backward that ends at the layer. Something that is zero is added to the layer's output by
    an interceptor of Linen's, and the derivative with respect to it is taken.
    """
    path = tuple(layer.split("/"))
    depth = 0

    def shift(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal depth
        here = context.module.path == path and context.method_name == "__call__"
        depth += here
        try:
            output = function(*args, **kwargs)
        finally:
            depth -= here
        if here and depth == 0:
            output = output + context.module.get_variable(COLLECTION, SHIFT)
        return output

    def asked_for(module: nn.Module, method: str) -> bool:
        return module.path == path and method == "__call__"

    def scores(amount: jax.Array) -> tuple[jax.Array, jax.Array]:
        nested: Any = {SHIFT: amount}
        for part in reversed(path):
            nested = {part: nested}
        with nn.intercept_methods(shift):
            outputs, state = model.apply(
                {**variables, COLLECTION: nested},
                images,
                capture_intermediates=asked_for,
                mutable=["intermediates"],
                **kwargs,
            )
        found: Any = state["intermediates"]
        for part in path:
            found = found[part]
        return pick(outputs, target).sum(), found["__call__"][-1]

    abstract = jax.eval_shape(
        lambda variables, images: model.apply(
            variables, images, capture_intermediates=asked_for, mutable=["intermediates"], **kwargs
        )[1]["intermediates"],
        variables,
        images,
    )
    for part in path:
        abstract = abstract[part]
    output = abstract["__call__"][-1]
    gradients, activations = jax.grad(scores, has_aux=True)(jnp.zeros(output.shape, output.dtype))
    return activations.astype(jnp.float32), gradients.astype(jnp.float32)
