"""Small networks for the page."""

import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_weights import drawn

from cnnjax.explorer import Examples, Network, Server
from cnnjax.explorer.overlays import Overlays
from cnnjax.nn import BatchNorm, Conv, DepthwiseConv, avg_pool, max_pool

CLASSES = ("nought", "one", "two", "three", "four", "five")


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(BatchNorm(use_running_average=True, name="norm1")(Conv(4, (3, 3), use_bias=False, name="conv1")(x)))
        return nn.relu(x + DepthwiseConv(4, (3, 3), name="conv2")(y))


class Small(nn.Module):
    """The layers that most networks have."""

    @nn.compact
    def __call__(self, images, train=False):
        x = jnp.tanh(Conv(4, (5, 5), strides=2, padding=2, name="stem")(images))
        x = Block(name="stage1")(x)
        x = avg_pool(x, 2)
        x = max_pool(Conv(70, (1, 1), name="wide")(x), 3, 1, 1)
        return nn.Dense(len(CLASSES), name="head")(x.reshape(1, -1))


@pytest.fixture(scope="session")
def network():
    model = Small()
    variables, expected = drawn(model, 16)
    # Probabilities far from 0 and 1, so that every picture has its own.
    variables["params"]["head"] = jax.tree.map(lambda leaf: leaf / 20, variables["params"]["head"])
    return Network("small", model, variables, expected, CLASSES)


@pytest.fixture(scope="session")
def examples():
    pictures = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1), np.uint8)
    return Examples(3, lambda number: (pictures[number], CLASSES[number]))


@pytest.fixture(scope="session")
def served(network, examples):
    with Server(network, examples, overlay=Overlays(network)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def values(network, examples):
    """Return what JAX gives for each layer of the first example."""
    return network.values(network.know(examples.read(0)[0]))
