"""Filters by hand: float32 arrays for `cnnjax.signal.correlate` and `cnnjax.signal.convolve`.

Those that are not symmetric are written down as `correlate` applies them; `convolve` turns their sign or direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Axis = Literal["x", "y"]


def box(size: int | Sequence[int] = 3) -> np.ndarray:
    """Return equal weights that sum to 1: the mean over the window.

    Args:
      size: one number for a square, (length,) for a signal, or (height, width).
    Raises:
      ValueError: a size below 1, or of more than two dimensions.
    """
    shape = _shape(size)
    return np.full(shape, 1 / np.prod(shape), np.float32)


def gaussian(size: int | Sequence[int], sigma: float) -> np.ndarray:
    """Return exp(-(x^2 + y^2) / (2 sigma^2)) at the middles of the pixels, divided by the sum.

    A size of about 6 sigma holds 99 % of each dimension's weight; a smaller one cuts the bell off.

    Args:
      size: as in `box`; of even sizes the top lies between two pixels.
      sigma: standard deviation, pixels.
    Raises:
      ValueError: a size below 1, or sigma not above 0.
    """
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma must be above 0 and finite, got {sigma}")
    weights = np.ones((), np.float64)
    for length in _shape(size):
        bell = np.exp(-((np.arange(length) - (length - 1) / 2) ** 2) / (2 * sigma**2))
        # The top of a bell that is narrow beside its grid's half step underflows; its nearest pixels share the weight.
        if bell.sum() == 0:
            bell = np.isin(np.arange(length), [(length - 1) // 2, length // 2]).astype(np.float64)
        weights = np.multiply.outer(weights, bell / bell.sum())
    return weights.astype(np.float32)


def sobel(axis: Axis = "x") -> np.ndarray:
    """Return the 3x3 slope along an axis, smoothed by (1, 2, 1) across it; positive where values rise along the axis.

    Source: Sobel and Feldman 1968, "A 3x3 isotropic gradient operator for image processing".

    Args:
      axis: "x", to the right (finds vertical edges), or "y", downwards.
    """
    return _slope(axis, (1, 2, 1))


def prewitt(axis: Axis = "x") -> np.ndarray:
    """Return the 3x3 slope along an axis, smoothed by (1, 1, 1) across it; see `sobel`.

    Source: Prewitt 1970, "Object enhancement and extraction".
    """
    return _slope(axis, (1, 1, 1))


def laplacian(*, diagonal: bool = False) -> np.ndarray:
    """Return the 3x3 sum of second differences: positive in dark spots, negative in bright ones.

    Args:
      diagonal: count the diagonals too (eight neighbours instead of four).
    """
    if diagonal:
        return np.array([[1, 1, 1], [1, -8, 1], [1, 1, 1]], np.float32)
    return np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def sharpen() -> np.ndarray:
    """Return the 3x3 identity less the Laplacian of four neighbours; sums to 1."""
    return identity() - laplacian()


def emboss() -> np.ndarray:
    """Return the 3x3 identity plus the slope towards the lower right, which makes a relief of an image; sums to 1."""
    return np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def identity(size: int | Sequence[int] = 3) -> np.ndarray:
    """Return zeros with a one in the middle, which changes nothing.

    Args:
      size: as in `box`, and odd.
    Raises:
      ValueError: an even size, which has no middle.
    """
    shape = _shape(size)
    if any(length % 2 == 0 for length in shape):
        raise ValueError(f"size must be odd, for there to be a middle, got {size}")
    weights = np.zeros(shape, np.float32)
    weights[tuple(length // 2 for length in shape)] = 1
    return weights


def _shape(size: int | Sequence[int]) -> tuple[int, ...]:
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise ValueError(f"size must be one number, (length,) or (height, width), of at least 1, got {size}")
    return shape


def _slope(axis: Axis, across: Sequence[int]) -> np.ndarray:
    if axis not in ("x", "y"):
        raise ValueError(f"axis must be 'x' or 'y', got {axis!r}")
    kernel = np.outer(across, (-1, 0, 1)).astype(np.float32)
    return kernel if axis == "x" else kernel.T.copy()
