"""A network with everything that training has to deal with, small enough to compile in no time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from cnnjax.nn import BatchNorm, Conv
from cnnjax.nn.building import ClassifierHead
from cnnjax.training import TrainState


class TinyNet(nn.Module):
    features: tuple[int, ...] = (4, 8)
    num_classes: int = 10
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for index, features in enumerate(self.features, start=1):
            x = Conv(features, (3, 3), strides=2, use_bias=False, name=f"conv{index}")(x)
            x = nn.relu(BatchNorm(use_running_average=not train, axis_name=self.axis_name, name=f"norm{index}")(x))
        return ClassifierHead(self.num_classes, name="head")(x, train)


@pytest.fixture(scope="session")
def make_tiny_state():
    """Return a function of the network's fields and an optimizer."""

    def make(tx=None, *, ema=False, **fields):
        model = TinyNet(**fields)
        return TrainState.create(model, tx or optax.sgd(0.1, 0.9), jax.random.key(3), jnp.zeros((1, 8, 8, 3)), ema=ema)

    return make
