"""How PyTorch and Keras lay out the arrays of each kind of layer; said here once for all families.

Ours are Linen's: convolutions [height, width, in, out], dense layers [in, out], vectors for the rest.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import numpy as np


class Layout(abc.ABC):
    """A bijection between an array of ours and the source's."""

    @abc.abstractmethod
    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the source's array."""

    @abc.abstractmethod
    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return our array, the inverse of `to_source`."""

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the source's array for ``shape`` of ours."""
        return self.to_source(np.broadcast_to(np.int8(0), shape)).shape


@dataclasses.dataclass(frozen=True)
class Transpose(Layout):
    """The source has our axes in the order ``axes``, and those of its axes in ``flip`` back to front."""

    axes: tuple[int, ...]
    flip: tuple[int, ...] = ()

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the source's array."""
        return np.flip(ours.transpose(self.axes), self.flip)

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return our array."""
        return np.flip(theirs, self.flip).transpose(tuple(int(axis) for axis in np.argsort(self.axes)))


class Same(Layout):
    """The source has the same array."""

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the array as it is."""
        return ours

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return the array as it is."""
        return theirs


@dataclasses.dataclass(frozen=True)
class Flatten(Layout):
    """A dense layer behind a flatten: inputs run over (height, width, channel) with us, (channel, height, width) there.

    ``channels`` is the number of channels of the flattened maps. For PyTorch only: Keras flattens as we do.
    """

    channels: int

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return [out, channel * height * width]."""
        return ours.reshape(-1, self.channels, ours.shape[1]).transpose(2, 1, 0).reshape(ours.shape[::-1])

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return [height * width * channel, out]."""
        return theirs.reshape(theirs.shape[0], self.channels, -1).transpose(2, 1, 0).reshape(theirs.shape[::-1])

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return [out, inputs]."""
        return shape[::-1]


@dataclasses.dataclass(frozen=True)
class Unflatten(Layout):
    """A dense layer (kernel or bias) whose outputs become maps: they run over (height, width, channel) with us,
    (channel, height, width) there.

    ``channels`` is the number of channels of the maps. For PyTorch only: Keras unflattens as we do.
    """

    channels: int

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return [channel * height * width, in], or the bias."""
        theirs = ours.T
        return theirs.reshape(-1, self.channels, *theirs.shape[1:]).swapaxes(0, 1).reshape(theirs.shape)

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return [in, height * width * channel], or the bias."""
        return theirs.reshape(self.channels, -1, *theirs.shape[1:]).swapaxes(0, 1).reshape(theirs.shape).T


@dataclasses.dataclass(frozen=True)
class KerasDepthwise(Layout):
    """Keras keeps depthwise kernels as [height, width, in, multiplier], we as [height, width, 1, in * multiplier]."""

    channels: int

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return [height, width, in, multiplier]."""
        return ours.reshape(*ours.shape[:2], self.channels, -1)

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return [height, width, 1, in * multiplier]."""
        return theirs.reshape(*theirs.shape[:2], 1, -1)


@dataclasses.dataclass(frozen=True)
class Append(Layout):
    """The source's array ends in ``ones`` axes of length 1 that ours has not: a vector stored as [channels, 1, 1]."""

    ones: int

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the array with the axes."""
        return ours.reshape(ours.shape + (1,) * self.ones)

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return the array without the axes."""
        return theirs.reshape(theirs.shape[: theirs.ndim - self.ones])


@dataclasses.dataclass(frozen=True)
class Squeeze(Layout):
    """Ours is the 1x1 convolution [1, 1, in, out], the source's the dense layer [out, in] (or [in, out] in Keras)."""

    transpose: bool = True

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the dense layer's kernel."""
        return ours[0, 0].T if self.transpose else ours[0, 0]

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return the convolution's kernel."""
        return (theirs.T if self.transpose else theirs)[None, None]


@dataclasses.dataclass(frozen=True)
class Expand(Layout):
    """Ours is the dense layer [size * size * in, out], the source's a convolution.

    That is [out, in, size, size] in PyTorch, and [size, size, in, out] in Keras (``transpose=False``). It takes maps of
    ``size`` pixels, which we flatten before the dense layer.
    """

    size: int = 1
    transpose: bool = True

    def to_source(self, ours: np.ndarray) -> np.ndarray:
        """Return the convolution's kernel."""
        kernel = ours.reshape(self.size, self.size, -1, ours.shape[1])
        return kernel.transpose(3, 2, 0, 1) if self.transpose else kernel

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Return the dense layer's kernel."""
        kernel = theirs.transpose(2, 3, 1, 0) if self.transpose else theirs
        return kernel.reshape(-1, kernel.shape[-1])


SAME = Same()
TORCH_CONV = Transpose((3, 2, 0, 1))
# PyTorch's transposed convolution is the gradient of a convolution, so its kernel is back to front for one that
# slides over the dilated input; with transpose_kernel=True Linen takes the gradient's view too.
TORCH_CONV_TRANSPOSE = Transpose((2, 3, 0, 1), flip=(2, 3))
TORCH_CONV_TRANSPOSE_OF_GRADIENT = Transpose((3, 2, 0, 1))
TORCH_DENSE = Transpose((1, 0))
KERAS_CONV_TRANSPOSE = Transpose((0, 1, 3, 2), flip=(0, 1))

# Sources that are written in Linen, as we are.
LINEN = ("scico", "cnnjax")
NORMALIZATIONS = (nn.BatchNorm, nn.LayerNorm, nn.GroupNorm)
_TORCH_LEAVES = MappingProxyType({"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"})
_KERAS_NORM_LEAVES = MappingProxyType(
    {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
)


def leaf_names(layer: nn.Module, source: str) -> Mapping[str, str]:
    """Return how ``source`` calls the arrays of a layer of this kind, by our names; names not in it are the same."""
    if source in LINEN:
        return MappingProxyType({})
    if source != "keras":
        return _TORCH_LEAVES
    return _KERAS_NORM_LEAVES if isinstance(layer, NORMALIZATIONS) else MappingProxyType({})


def default_layout(layer: nn.Module, leaf: str, shape: tuple[int, ...], source: str) -> Layout:
    """Return how ``source`` lays out the array ``leaf`` of a layer of this kind.

    Args:
      layer: the Linen layer, of which type and configuration count.
      leaf: our name of the array.
      shape: shape of our array.
      source: "keras", one of `LINEN`, or any of the others for PyTorch.
    """
    if leaf != "kernel" or source in LINEN:
        return SAME
    if source == "keras":
        if isinstance(layer, nn.ConvTranspose):
            return SAME if layer.transpose_kernel else KERAS_CONV_TRANSPOSE
        if isinstance(layer, nn.Conv) and layer.feature_group_count > 1 and shape[-2] == 1:
            return KerasDepthwise(layer.feature_group_count)
        return SAME
    if isinstance(layer, nn.ConvTranspose):
        return TORCH_CONV_TRANSPOSE_OF_GRADIENT if layer.transpose_kernel else TORCH_CONV_TRANSPOSE
    if isinstance(layer, nn.Conv):
        return TORCH_CONV
    return TORCH_DENSE if isinstance(layer, nn.Dense) else SAME
