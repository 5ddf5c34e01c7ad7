"""A network with its weights, ready to say what each of its units computed for a picture, and of what."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.explorer.descriptions import describe_layer
from cnnjax.explorer.layers import add_softmax, find_layers
from cnnjax.explorer.program import Program
from cnnjax.runs import ImageFormat

# Pictures that stay known, and bytes of their layers' values that are kept; others are computed again.
KNOWN_PICTURES = 500
KEPT_BYTES = 512 << 20


class UnknownArray(ValueError):
    """An array, or a part of one, that is not there."""


class Network:
    """Layers of a network, and their values for pictures.

    Computed in float32 whatever the network's own type, so that its numbers can be checked by hand.

    Args:
      name: to be shown.
      model: a network whose first argument are images.
      variables: its variables.
      preprocessing: what its images have to look like.
      class_names: of its outputs; empty where they are no classes.
      trained: False if the variables were drawn.
    Raises:
      ValueError: the network gives more than one array, or one that does not depend on the image.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        variables: Mapping[str, Any],
        preprocessing: ImageFormat,
        class_names: Sequence[str],
        trained: bool = True,
    ) -> None:
        self.name = name
        self.model = model.clone(dtype=jnp.float32) if hasattr(model, "dtype") else model
        self.variables = variables
        self.preprocessing = preprocessing
        self.class_names = tuple(class_names)
        self.trained = trained
        shape = (*preprocessing.size, len(preprocessing.mean))
        program = Program(self.model, variables, shape)
        self.layers = find_layers(program, variables)
        if len(program.outputs) != 1 or self.layers[-1].slot != program.outputs[0]:
            raise ValueError(f"{name} must return one array that its last operation makes, got {len(program.outputs)}")
        outputs = self.layers[-1].shape
        self.classifies = len(outputs) == 1 and len(self.class_names) == outputs[0]
        if self.classifies:
            add_softmax(self.layers, outputs)
        self._fixed = self._read_fixed(program)
        wanted = [layer.slot for layer in self.layers if layer.slot >= 0]

        def values(variables: Any, pixels: jax.Array) -> list[jax.Array]:
            found = program.evaluate(variables, preprocessing.normalise(pixels), wanted)
            return [*found, jax.nn.softmax(found[-1])] if self.classifies else found

        self._compute = jax.jit(values)
        self._pictures: OrderedDict[str, np.ndarray] = OrderedDict()
        self._values: OrderedDict[str, list[np.ndarray]] = OrderedDict()
        self._lock = threading.RLock()

    def _read_fixed(self, program: Program) -> list[dict[str, np.ndarray]]:
        """Return the arrays of each layer that no image decides over, without a batch."""
        slots = sorted({slot for layer in self.layers for slot in layer.arrays.values() if isinstance(slot, int)})
        shape = program.shapes[program.image]
        read = jax.jit(lambda variables: program.evaluate(variables, jnp.zeros(shape), slots))
        found = dict(zip(slots, read(self.variables) if slots else [], strict=True))
        fixed = []
        for layer in self.layers:
            arrays = {}
            for name, slot in layer.arrays.items():
                if isinstance(slot, int):
                    array = np.asarray(found[slot], np.float32)
                    # A parameter of each channel may have axes of one in front, one of them the batch's.
                    core = name == "kernel" or array.ndim == 0
                    arrays[name] = array if core else array.reshape(array.shape[array.ndim > len(layer.shape) :])
                else:
                    arrays[name] = slot
            fixed.append(arrays)
        return fixed

    def describe(self) -> dict[str, Any]:
        """Return what the page has to know of the network."""
        described = [
            describe_layer(layer, {name: array.shape for name, array in arrays.items()})
            for layer, arrays in zip(self.layers, self._fixed, strict=True)
        ]
        return {
            "name": self.name,
            "layers": described,
            "classes": list(self.class_names) if self.classifies else [],
            "trained": self.trained,
            "size": list(self.preprocessing.size),
            "channels": len(self.preprocessing.mean),
        }

    def know(self, pixels: np.ndarray) -> str:
        """Take in a picture, uint8[height, width, channels] as the network takes them, and return its name."""
        expected = (*self.preprocessing.size, len(self.preprocessing.mean))
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise ValueError(f"a picture must be uint8{list(expected)}, got {pixels.dtype}{list(pixels.shape)}")
        name = hashlib.sha256(pixels.tobytes()).hexdigest()[:20]
        with self._lock:
            self._pictures[name] = pixels
            self._pictures.move_to_end(name)
            while len(self._pictures) > KNOWN_PICTURES:
                self._pictures.popitem(last=False)
        return name

    def picture(self, name: str) -> np.ndarray:
        """Return the pixels of a picture.

        Raises:
          UnknownArray: no picture of that name is known, or is any more.
        """
        with self._lock:
            if name not in self._pictures:
                raise UnknownArray(f"picture {name!r} is not known any more; show it again")
            return self._pictures[name]

    def values(self, picture: str) -> list[np.ndarray]:
        """Return the values of each layer for a picture, without the batch."""
        with self._lock:
            if picture in self._values:
                self._values.move_to_end(picture)
                return self._values[picture]
            pixels = self.picture(picture)
            found = self._compute(self.variables, pixels[None])
            values = [
                np.asarray(array, np.float32).reshape(layer.shape)
                for array, layer in zip(found, self.layers, strict=True)
            ]
            self._values[picture] = values
            size = sum(array.nbytes for array in values)
            while len(self._values) > 1 and len(self._values) * size > KEPT_BYTES:
                self._values.popitem(last=False)
            return values

    def fixed(self, layer: int, name: str) -> np.ndarray:
        """Return an array of a layer that is the same for all pictures: a kernel, a bias, where copies come from.

        Raises:
          UnknownArray: the layer has none of that name.
        """
        if not 0 <= layer < len(self._fixed) or name not in self._fixed[layer]:
            raise UnknownArray(f"layer {layer} has no array {name!r}")
        return self._fixed[layer][name]


def part(array: np.ndarray, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Return a box of an array.

    Raises:
      UnknownArray: the box is not within the array.
    """
    box = list(zip(start, stop, array.shape, strict=False))
    if not len(start) == len(stop) == array.ndim or any(not 0 <= low <= high <= size for low, high, size in box):
        raise UnknownArray(f"an array of shape {list(array.shape)} has no part from {list(start)} to {list(stop)}")
    return array[tuple(slice(low, high) for low, high, _ in box)]
