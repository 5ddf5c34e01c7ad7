"""The autoencoders in Keras: transcriptions of figure 1 of Guo et al. 2017 and of Valdarrama 2021."""

from __future__ import annotations

from typing import Any

import torch
from references.reference import Reference
from torch import nn


def conv_autoencoder() -> Any:
    """Convolutions of stride 2 to a code of 10 numbers, and back; the innermost pair is unpadded."""
    from keras import Input, Model, layers

    images = Input((28, 28, 1))
    x = layers.Conv2D(32, 5, 2, padding="same", activation="relu", name="conv1")(images)
    x = layers.Conv2D(64, 5, 2, padding="same", activation="relu", name="conv2")(x)
    x = layers.Conv2D(128, 3, 2, padding="valid", activation="relu", name="conv3")(x)
    x = layers.Dense(10, name="embedding")(layers.Flatten()(x))
    x = layers.Dense(3 * 3 * 128, activation="relu", name="dense")(x)
    x = layers.Reshape((3, 3, 128))(x)
    x = layers.Conv2DTranspose(64, 3, 2, padding="valid", activation="relu", name="deconv3")(x)
    x = layers.Conv2DTranspose(32, 5, 2, padding="same", activation="relu", name="deconv2")(x)
    return Model(images, layers.Conv2DTranspose(1, 5, 2, padding="same", name="deconv1")(x))


def denoising_autoencoder() -> Any:
    """Convolutions and max pooling down, transposed convolutions up, a convolution with a sigmoid."""
    from keras import Input, Model, layers

    x = images = Input((28, 28, 1))
    for _ in range(2):
        x = layers.MaxPooling2D(2, padding="same")(layers.Conv2D(32, 3, padding="same", activation="relu")(x))
    for _ in range(2):
        x = layers.Conv2DTranspose(32, 3, 2, padding="same", activation="relu")(x)
    return Model(images, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x))


class ConvAutoencoder(nn.Module):
    """`conv_autoencoder` in PyTorch, which puts channels first where maps become vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(1, 32, 5, 2),
                "conv2": nn.Conv2d(32, 64, 5, 2),
                "conv3": nn.Conv2d(64, 128, 3, 2),
                "latent": nn.Linear(128 * 3 * 3, 10),
            }
        )
        self.decoder = nn.ModuleDict(
            {
                "dense1": nn.Linear(10, 128 * 3 * 3),
                "conv1": nn.ConvTranspose2d(128, 64, 3, 2),
                "conv2": nn.ConvTranspose2d(64, 32, 5, 2),
                "conv3": nn.ConvTranspose2d(32, 1, 5, 2),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder["conv1"](nn.functional.pad(x, (1, 2, 1, 2))).relu()
        x = self.encoder["conv2"](nn.functional.pad(x, (1, 2, 1, 2))).relu()
        x = self.encoder["latent"](self.encoder["conv3"](x).relu().flatten(1))
        x = self.decoder["conv1"](self.decoder["dense1"](x).relu().unflatten(1, (128, 3, 3))).relu()
        x = self.decoder["conv2"](x)[..., 1:-2, 1:-2].relu()
        return self.decoder["conv3"](x)[..., 1:-2, 1:-2]


REFERENCES = [
    Reference("conv_autoencoder", "keras", conv_autoencoder, size=28, channels=1, training=True),
    Reference("conv_autoencoder", "torch", ConvAutoencoder, size=28, channels=1),
    Reference("denoising_autoencoder", "keras", denoising_autoencoder, size=28, channels=1, training=True),
]
