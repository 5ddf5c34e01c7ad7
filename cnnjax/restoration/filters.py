"""scikit-image's classic filters against noise, each with the strengths that are worth trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.restoration.quality import psnr


class Filter(NamedTuple):
    """A filter and its strengths.

    Attributes:
      apply: (float32[height, width, channels], standard deviation of the noise, both for pixels in [0, 1], strength)
        -> an image of the same shape.
      strengths: to choose from.
    """

    apply: Callable[[np.ndarray, float, float], np.ndarray]
    strengths: Sequence[float]


def gaussian(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Blur with a Gaussian of ``strength`` pixels."""
    from skimage.filters import gaussian

    return gaussian(image, strength, channel_axis=-1)


def median(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Take the median of windows of ``strength`` pixels square, in each channel."""
    from skimage.filters import median

    return median(image, np.ones((int(strength), int(strength), 1)), mode="reflect")


def non_local_means(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Average patches that look alike, up to ``strength`` times the noise (Buades, Coll and Morel 2005)."""
    from skimage.restoration import denoise_nl_means

    cut_off = strength * noise
    result = denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=cut_off, sigma=noise, fast_mode=True, channel_axis=-1
    )
    # It drops a single channel.
    return result.reshape(image.shape)


def wavelet(image: np.ndarray, noise: float, strength: float) -> np.ndarray:
    """Shrink wavelet coefficients, as for ``strength`` times the noise (BayesShrink: Chang, Yu and Vetterli 2000)."""
    from skimage.restoration import denoise_wavelet

    return denoise_wavelet(
        image, sigma=strength * noise, method="BayesShrink", mode="soft", rescale_sigma=True, channel_axis=-1
    )


FILTERS: Mapping[str, Filter] = {
    "Gaussian": Filter(gaussian, (0.7, 1.0, 1.4, 2.0)),
    "median": Filter(median, (3, 5, 7)),
    "non-local means": Filter(non_local_means, (0.5, 0.7, 0.9)),
    "wavelet": Filter(wavelet, (0.8, 1.0, 1.2)),
}


def best_strength(
    name: str, noisy: Mapping[str, np.ndarray], clean: Mapping[str, np.ndarray], noise: float
) -> tuple[float, dict[str, np.ndarray]]:
    """Return the strength of a filter that gives the best mean PSNR on these very images, and its results.

    Args:
      name: of the filter, see ``FILTERS``.
      noisy, clean: float32[height, width, channels] by name.
      noise: standard deviation, for pixels in [0, 1].
    """
    tried = {
        strength: {key: FILTERS[name].apply(image, noise, strength) for key, image in noisy.items()}
        for strength in FILTERS[name].strengths
    }

    def quality(strength: float) -> float:
        return float(np.mean([psnr(np.clip(image, 0, 1), clean[key]) for key, image in tried[strength].items()]))

    best = max(tried, key=quality)
    return best, tried[best]
