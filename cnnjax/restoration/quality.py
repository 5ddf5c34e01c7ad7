"""How near a restored image is to the clean one."""

from __future__ import annotations

import math

import numpy as np


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, pixels in [0, 1]: -10 log10 of the mean squared error.

    Raises:
      ValueError: the shapes differ.
    """
    if image.shape != clean.shape:
        raise ValueError(f"both images must have one shape, got {image.shape} and {clean.shape}")
    error = float(np.mean((image.astype(np.float64) - clean) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: np.ndarray, clean: np.ndarray) -> float:
    """Return the structural similarity of [height, width, channels], pixels in [0, 1]; needs scikit-image.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13(4), with its Gaussian window; channels are averaged.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            image, clean, data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
