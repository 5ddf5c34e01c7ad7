"""Names of classes that published weights tell apart."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1000 classes of ImageNet (ILSVRC 2012), in the order of the logits.

    >>> imagenet_classes()[281]
    'tabby'

    Source: Russakovsky et al. 2014, arXiv:1409.0575; names as torchvision shortens them.
    """
    return tuple((Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines())
