"""LeNet-5: in no library; a PyTorch twin of the taught one flattens channels first."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.lenet import LeNet
from cnnjax.pretrained.layouts import Flatten
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    if not isinstance(model, LeNet):
        return {}  # The network of 1998 flattens nothing.
    return {"torch": Rules(layouts={"head/dense1/kernel": Flatten(channels=model.conv_features[-1])})}
