"""The tables of the Inception networks, as layers."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import BatchNorm, Conv, avg_pool
from cnnjax.nn.building import Branches, ConvChain, ConvLayer

IMAGES = jax.random.normal(jax.random.key(0), (2, 9, 7, 3))


@pytest.mark.slow
def test_layers_keep_the_size_unless_told_otherwise_and_are_numbered_in_order():
    rows = (ConvLayer(4, (1, 7)), avg_twice, (ConvLayer(2, (1, 3)), ConvLayer(3, (3, 1))), ConvLayer(5, 3, 2, 0))
    chain = ConvChain(rows, Conv, BatchNorm, nn.relu)
    out, variables = chain.init_with_output(jax.random.key(1), IMAGES, False)
    assert out.shape == (2, 2, 1, 5)
    kernels = {name: value["kernel"].shape for name, value in variables["params"].items() if name.startswith("conv")}
    assert kernels == {"conv1": (1, 7, 3, 4), "conv2": (1, 3, 4, 2), "conv3": (3, 1, 4, 3), "conv4": (3, 3, 5, 5)}
    assert {"norm1", "norm2", "norm3", "norm4"} <= variables["params"].keys()


def avg_twice(x):
    return avg_pool(x, 2, ceil_mode=True)


def test_branches_concatenate_in_order():
    branches = Branches(
        ((ConvLayer(4),), (partial(avg_pool, window=1), ConvLayer(2, 3)), (jnp.abs,)), Conv, None, nn.relu
    )
    out, variables = branches.init_with_output(jax.random.key(1), IMAGES, False)
    assert variables["params"].keys() == {"branch1", "branch2"}
    assert variables["params"]["branch1"].keys() == {"conv1"}
    assert out.shape == (2, 9, 7, 9)
    np.testing.assert_array_equal(out[..., 6:], jnp.abs(IMAGES))
