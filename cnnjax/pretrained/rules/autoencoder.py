"""The autoencoders: Keras, with the layers' names of the authors' scripts; a PyTorch twin flattens channels first."""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn

from cnnjax.models.autoencoder import ConvAutoencoder
from cnnjax.pretrained.layouts import Flatten, Unflatten
from cnnjax.pretrained.names import Rules

# Names that Keras gives to layers without one.
DENOISING = Rules(
    {
        "encoder/conv1": "conv2d",
        "encoder/conv#": "conv2d_{:-1}",
        "decoder/conv1": "conv2d_transpose",
        "decoder/conv#": "conv2d_transpose_{:-1}",
        "head/conv1": "conv2d_2",
    }
)


def rules(name: str, model: nn.Module) -> Mapping[str, Rules]:
    """Return the rules of a variant by source."""
    if not isinstance(model, ConvAutoencoder):
        return {"keras": DENOISING}
    depth = len(model.convolutions)
    keras = Rules(
        {
            "encoder/conv#": "conv{}",
            "encoder/latent": "embedding",
            "decoder/dense1": "dense",
            "decoder/conv#": lambda index: f"deconv{depth + 1 - index}",
        }
    )
    channels = model.convolutions[-1][0]
    layouts = {"encoder/latent/kernel": Flatten(channels), "decoder/dense1/(kernel|bias)": Unflatten(channels)}
    return {"keras": keras, "torch": Rules(layouts=layouts)}
