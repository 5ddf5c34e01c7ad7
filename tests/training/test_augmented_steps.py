"""Augmentation as part of the training step: the same draws wherever the examples are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax
from cnnjax.data import Preprocess
from cnnjax.data.augment import parse_all
from cnnjax.training import Devices, TrainState, train_step
from cnnjax.training.metrics import zero_sums

SPECS = ("crop:1", "rotate:20", "mixup:0.4", "gaussian-noise:0.05")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [Devices("pmap", 8), Devices("jit", 8)], ids=["pmap", "jit"])
def test_devices_augment_and_mix_the_global_batch_as_one_does(devices):
    model = cnnjax.create_model("mlp", num_classes=10)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    random = np.random.default_rng(0)
    batch = {"image": random.integers(0, 256, (16, 8, 8, 1), np.uint8), "label": np.arange(16) % 10}
    step = partial(train_step, preprocess=Preprocess((0.5,), (0.25,), parse_all(SPECS, num_classes=10)))
    one, sums = jax.jit(step)(state, batch)
    plain = jax.jit(partial(train_step, preprocess=Preprocess((0.5,), (0.25,))))(state, batch)[1]
    assert abs(float(sums["loss_sum"]) - float(plain["loss_sum"])) > 1e-3
    several, sums_of_several = devices.compile_train(step)(
        devices.replicate(state), devices.replicate(zero_sums()), devices.shard(batch)
    )
    several, sums_of_several = devices.unreplicate(several), devices.unreplicate(sums_of_several)
    np.testing.assert_allclose(sums["loss_sum"], sums_of_several["loss_sum"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, several.params)
