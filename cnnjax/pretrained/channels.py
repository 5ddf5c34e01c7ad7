"""Weights for images of one number of channels in a network for images of another."""

from __future__ import annotations

import numpy as np

from cnnjax.runs.images import ImageFormat


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return the kernel of a network's first convolution for images of another number of channels.

    For one channel, the weights of all channels are summed: a grey image gives what the same image in all channels
    gave. For others, the channels are repeated in order and the last repetition is cut off, which truncates them where
    there are fewer; all are scaled by the old number over the new one, so that the sums stay as large.

    Source: timm's ``adapt_input_conv`` (Wightman 2019, github.com/huggingface/pytorch-image-models), there for kernels
    of three channels.

    Args:
      kernel: float[height, width, in, out].
      channels: of the images.
    Returns:
      float[height, width, channels, out].
    """
    before = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % before] * np.asarray(before / channels, kernel.dtype)


def adapt_format(expected: ImageFormat, channels: int) -> ImageFormat:
    """Return the normalisation of images with another number of channels, for weights that `adapt_kernel` adapted.

    One channel has the mean of the means and of the standard deviations; more have those of the channels that their
    weights are from. Where weights for colours want blue first, images of other numbers of channels are in the order of
    the weights already.

    >>> images = cnnjax.weights_info("torchvision://resnet50/IMAGENET1K_V2").images
    >>> cnnjax.pretrained.adapt_format(images, 4).std
    (0.229, 0.224, 0.225, 0.229)
    """
    if channels == len(expected.mean):
        return expected
    expected = expected._replace(channel_order="rgb")
    if channels == 1:
        return expected._replace(mean=(float(np.mean(expected.mean)),), std=(float(np.mean(expected.std)),))
    places = [place % len(expected.mean) for place in range(channels)]
    mean, std = (tuple(values[place] for place in places) for values in (expected.mean, expected.std))
    return expected._replace(mean=mean, std=std)
