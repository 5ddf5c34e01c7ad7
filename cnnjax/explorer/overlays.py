"""Which pixels speak for a class or a unit, to be drawn over the picture."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import explain
from cnnjax.explorer.network import Network, UnknownArray

METHODS = {
    "saliency": explain.saliency,
    "grad_cam": explain.grad_cam,
    "occlusion": explain.occlusion,
    "deconvnet": explain.deconvnet,
}


class Overlays:
    """Attributions of one network, those that it has: deconvnet needs activations that the method has a rule for.

    Attributes:
      methods: their names.

    Args:
      network: the network.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.compiled = functools.lru_cache(maxsize=64)(self._compile)
        self.methods = tuple(method for method in METHODS if network.classifies and self._works(method))

    def _works(self, method: str) -> bool:
        """Return whether a method takes this network."""
        images = jax.ShapeDtypeStruct((1, *self.network.layers[0].shape), jnp.float32)
        target = jax.ShapeDtypeStruct((1,), jnp.int32)
        call: Any = METHODS[method]
        try:
            jax.eval_shape(lambda v, x, t: call(self.network.model, v, x, t), self.network.variables, images, target)
        except ValueError:
            return False
        return True

    def _compile(self, method: str, path: str | None, unit: tuple[int, ...] | None) -> Any:
        call: Any = METHODS[method]
        model = self.network.model
        if path is None:
            return jax.jit(lambda variables, image, target: call(model, variables, image, target))
        return jax.jit(lambda variables, image, _: call(model, variables, image, unit, layer=path))

    def warm_up(self) -> None:
        """Compile what the page needs first: the layers' values, and then each method."""
        blank = np.zeros((*self.network.preprocessing.size, len(self.network.preprocessing.mean)), np.uint8)
        # One at a time: compiled beside each other, the values of the first picture would come late.
        self.network.values(self.network.know(blank))
        for method in self.methods:
            self(blank, method, 0)

    def __call__(
        self,
        pixels: np.ndarray,
        method: str,
        target: int | None = None,
        unit: tuple[int, tuple[int, ...]] | None = None,
    ) -> np.ndarray:
        """Return float32[height, width]: what speaks for a class or a unit is positive.

        Of methods that return a number per channel the sum over channels is shown, but of saliency the largest
        magnitude, as in its paper.

        Args:
          pixels: uint8[height, width, channels].
          method: one of ``methods``.
          target: a class; None for the best one.
          unit: a layer and a place in it, to be explained instead.
        Raises:
          UnknownArray: a class or a unit that is not there or cannot be explained.
        """
        network = self.network
        image = network.preprocessing.normalise(pixels[None])
        if target is not None and not 0 <= target < len(network.class_names):
            raise UnknownArray(f"there are {len(network.class_names)} classes, from 0, and no {target}")
        if target is None:
            target = int(network.values(network.know(pixels))[-1].argmax())
        path, place = None, None
        if unit is not None:
            path, place = self._unit(method, *unit)
        compute = self.compiled(method, path, place)
        found = np.asarray(compute(network.variables, image, jnp.array([target], jnp.int32))[0], np.float32)
        if found.ndim == 2:
            return found
        return np.abs(found).max(-1) if method == "saliency" else found.sum(-1)

    def _unit(self, method: str, layer: int, place: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        layers = self.network.layers
        if not 0 <= layer < len(layers) or layers[layer].path is None or method == "grad_cam":
            raise UnknownArray(f"{method} does not explain units of layer {layer}; take a layer that a module returns")
        shape = layers[layer].shape
        if len(place) != len(shape) or any(not 0 <= i < size for i, size in zip(place, shape, strict=True)):
            raise UnknownArray(f"layer {layer} has shape {list(shape)} and no unit {list(place)}")
        path = layers[layer].path
        assert path is not None, "checked above"
        return path, place
