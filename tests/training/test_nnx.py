"""Networks of ours in a training step of Flax's newer interface."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import cnnjax


@pytest.mark.slow
def test_a_network_trains_with_the_optimizer_of_nnx():
    model = cnnjax.create_model("resnet20", stage_sizes=(1, 1, 1), features=4, num_classes=3)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    labels = jnp.arange(8) % 3
    network = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(images)
    optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(network, optimizer):
        def loss(network):
            # The bridge keeps the running statistics that the network hands back.
            logits = network(images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = nnx.value_and_grad(loss)(network)
        optimizer.update(network, grads)
        return value

    before = jax.tree.map(jnp.copy, nnx.state(network, nnx.BatchStat))
    losses = [step(network, optimizer) for _ in range(3)]
    assert losses[2] < losses[0]
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(nnx.state(network, nnx.BatchStat)), strict=True):
        assert (old != new).any()
