"""Sums over what a window sees, written as operations on slices of whole images: the parts of forms for CPUs."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Shape = tuple[int, ...]
# More terms than this in one fused loop are slower than several loops.
TERMS = 25
_TOGETHER = contextvars.ContextVar("cnnjax_together", default=False)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let the compiler fuse what is computed `apart` for XLA:CPU's sake: for other devices."""
    token = _TOGETHER.set(True)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a window moves over images. One entry of each tuple for each spatial axis.

    Attributes:
      strides, padding, input_dilation, kernel_dilation, groups, precision: as in `jax.lax.conv_general_dilated`.
    """

    strides: Shape
    padding: tuple[tuple[int, int], ...]
    input_dilation: Shape
    kernel_dilation: Shape
    groups: int
    precision: Any = None

    def output_size(self, size: Sequence[int], window: Sequence[int]) -> Shape:
        """Return the spatial shape of the result."""
        return tuple(
            ((n - 1) * d + 1 + low + high - (k - 1) * r - 1) // s + 1
            for n, k, s, (low, high), d, r in zip(
                size, window, self.strides, self.padding, self.input_dilation, self.kernel_dilation, strict=True
            )
        )


def pad(images: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """Pad the spatial axes with zeros, or cut where the padding is negative."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), config)


def taps_of(window: Shape) -> list[Shape]:
    """Return the places of a window, row by row."""
    return list(itertools.product(*map(range, window)))


def shifted(padded: jax.Array, tap: Shape, out: Shape, geometry: Geometry) -> jax.Array:
    """Return what the tap of a window sees at each of the output's places."""
    start = [t * d for t, d in zip(tap, geometry.kernel_dilation, strict=True)]
    limit = [a + (n - 1) * s + 1 for a, n, s in zip(start, out, geometry.strides, strict=True)]
    return lax.slice(padded, (0, *start, 0), (padded.shape[0], *limit, padded.shape[-1]), (1, *geometry.strides, 1))


def apart(function: Callable[[], jax.Array]) -> jax.Array:
    """Return ``function()``, computed once and by itself.

    XLA:CPU drops optimization barriers before it fuses. A sum over a window that has several users, as the statistics
    and the result of a normalisation are, it then computes again for each of them; and what makes an array that is
    reordered it computes in the new order, number by number. A call that may not be inlined keeps them apart.
    Within `together`, nothing does.
    """
    if _TOGETHER.get():
        return function()
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)()


def fused_sum(terms: Sequence[Callable[[], jax.Array]]) -> jax.Array:
    """Return the sum of what the terms return, in fused loops of limited length, each computed `apart`."""

    def add(part: Sequence[Callable[[], jax.Array]]) -> jax.Array:
        return functools.reduce(lax.add, (term() for term in part))

    total = apart(functools.partial(add, terms[:TERMS]))
    for start in range(TERMS, len(terms), TERMS):
        total = apart(functools.partial(add, [functools.partial(_itself, total), *terms[start : start + TERMS]]))
    return total


def _itself(array: jax.Array) -> jax.Array:
    return array


def interleave(phases: dict[Shape, jax.Array], strides: Shape, size: Shape) -> jax.Array:
    """Put together images from those of every ``strides``-th pixel, by their first pixel; cut to ``size``."""
    rank = len(strides)
    if set(strides) == {1}:
        return phases[(0,) * rank]

    def stack(prefix: Shape) -> jax.Array:
        axis = len(prefix)
        if axis == rank:
            return phases[prefix]
        # The new axis goes behind the spatial axis that it refines; those of later axes are already there.
        return jnp.stack([stack((*prefix, phase)) for phase in range(strides[axis])], axis + 2)

    images = stack(())
    batch, channels = images.shape[0], images.shape[-1]
    shape = [images.shape[1 + 2 * axis] * strides[axis] for axis in range(rank)]
    images = images.reshape(batch, *shape, channels)
    return lax.slice(images, (0,) * (rank + 2), (batch, *size, channels))


def _phase_terms(
    phase: Shape, window: Shape, counts: Shape, out: Shape, geometry: Geometry
) -> list[tuple[Shape, Shape]]:
    """Return (tap, first pixel of the cotangent) of what reaches each ``strides``-th pixel from ``phase`` on."""
    found = []
    for tap in taps_of(window):
        offsets = [
            divmod(a + low - t * d, s)
            for a, (low, _), t, d, s in zip(
                phase, geometry.padding, tap, geometry.kernel_dilation, geometry.strides, strict=True
            )
        ]
        if any(rest for _, rest in offsets):
            continue
        start = tuple(q for q, _ in offsets)
        if all(q < n and q + count > 0 for q, n, count in zip(start, out, counts, strict=True)):
            found.append((tap, start))
    return found


def scatter(
    arrays: Sequence[jax.Array],
    window: Shape,
    size: Shape,
    geometry: Geometry,
    product: Callable[[list[jax.Array], Shape], jax.Array],
    *tail: int,
) -> jax.Array:
    """Return images, each pixel the sum of ``product(parts of the arrays, tap)`` over the taps that saw it.

    Arrays are [batch, spatial..., anything...] over the window's places, the first of them a cotangent: where it is 0,
    as it is beyond its borders, products must be 0. The result is [batch, spatial..., *tail].
    """
    cotangent = arrays[0]
    rank, batch, strides = len(window), cotangent.shape[0], geometry.strides
    out, rest = cotangent.shape[1 : rank + 1], cotangent.shape[rank + 1 :]
    counts = tuple(-(-n // s) for n, s in zip(size, strides, strict=True))
    terms = {
        phase: _phase_terms(phase, window, counts, out, geometry) for phase in itertools.product(*map(range, strides))
    }
    starts = [start for found in terms.values() for _, start in found]
    low = [max([0, *(-start[axis] for start in starts)]) for axis in range(rank)]
    high = [max([0, *(start[axis] + counts[axis] - out[axis] for start in starts)]) for axis in range(rank)]
    config = [(0, 0, 0), *((a, b, 0) for a, b in zip(low, high, strict=True)), *[(0, 0, 0)] * len(rest)]
    padded = [lax.pad(array, jnp.zeros((), array.dtype), config) for array in arrays]

    def parts(start: Shape) -> list[jax.Array]:
        begin = [q + a for q, a in zip(start, low, strict=True)]
        end = [b + n for b, n in zip(begin, counts, strict=True)]
        return [lax.slice(array, (0, *begin, *[0] * len(rest)), (batch, *end, *rest)) for array in padded]

    def term(tap: Shape, start: Shape) -> jax.Array:
        return product(parts(start), tap)

    phases = {}
    for phase, found in terms.items():
        if found:
            phases[phase] = fused_sum([functools.partial(term, tap, start) for tap, start in found])
        else:
            phases[phase] = jnp.zeros((batch, *counts, *tail), cotangent.dtype)
    if len(tail) == 1:
        return interleave(phases, strides, size)
    flat = {phase: value.reshape(*value.shape[: rank + 1], -1) for phase, value in phases.items()}
    return interleave(flat, strides, size).reshape(batch, *size, *tail)


def row(vector: jax.Array, rank: int) -> jax.Array:
    """Return a vector as an array of ``rank`` axes, along the last."""
    return vector.reshape((1,) * (rank - vector.ndim) + vector.shape)


def weights_of(kernel: jax.Array, tap: Shape) -> jax.Array:
    """Return what a tap of a depthwise kernel multiplies its channels with, [1..., channels].

    Indexing an array takes ten times as long to trace, and large windows have many taps.
    """
    begin = (*tap, 0, 0)
    end = (*(place + 1 for place in tap), 1, kernel.shape[-1])
    return lax.slice(kernel, begin, end)
