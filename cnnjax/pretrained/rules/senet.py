"""SENet: timm has these networks as ``legacy_seresnet50``, ``legacy_seresnext50_32x4d`` and ``legacy_senet154``."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.pretrained.names import Rules

TIMM = Rules(
    {
        "stem": "layer0",
        "stage#/block#": "layer{}.{:-1}",
        "conv#": "conv{}",
        "norm#": "bn{}",
        "se/squeeze_conv": "se_module.fc1",
        "se/excite_conv": "se_module.fc2",
        "proj_conv": "downsample.0",
        "proj_norm": "downsample.1",
        "head/classifier": "last_linear",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    return {"timm": TIMM}
