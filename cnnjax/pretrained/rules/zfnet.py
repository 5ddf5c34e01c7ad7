"""ZFNet: in no library; a PyTorch twin flattens channels first."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.zfnet import ZFNet
from cnnjax.pretrained.layouts import Flatten
from cnnjax.pretrained.names import Rules


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    assert isinstance(model, ZFNet)
    return {"torch": Rules(layouts={"head/dense1/kernel": Flatten(channels=model.stages[-1][-1].features)})}
