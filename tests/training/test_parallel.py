"""Several devices and several processes train like one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax
from cnnjax.training import Devices, TrainState, eval_step, train_step
from cnnjax.training.metrics import zero_sums


def batch(size, pixels, channels):
    random = np.random.default_rng(0)
    images = random.normal(size=(size, pixels, pixels, channels)).astype(np.float32)
    return {"image": images, "label": (np.arange(size) % 10).astype(np.int32), "mask": np.arange(size) < size - 3}


def assert_close(a, b, tolerance=1e-4):
    def plain(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(plain(x), plain(y), rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_take_the_step_of_one(make_tiny_state, mode):
    """Batch norm, masks and moving averages included: pmap with synchronised statistics, jit as it is."""
    data = batch(16, 8, 3)
    single, devices = Devices.choose("single"), Devices.choose(mode)
    assert (single.mode, single.count, devices.mode, devices.count) == ("jit", 1, mode, 8)
    state = make_tiny_state(ema=True)
    expected, expected_sums = single.compile_train(train_step)(state, zero_sums(), data)
    state = devices.replicate(make_tiny_state(ema=True, axis_name=devices.axis_name))
    step = devices.compile_train(train_step)
    new, sums = step(state, devices.replicate(zero_sums()), devices.put(data))
    assert len(jax.tree.leaves(new.params)[0].sharding.device_set) == 8
    assert_close(devices.unreplicate(new), expected)
    assert_close(devices.unreplicate(sums), expected_sums)
    evaluated = devices.compile_eval(eval_step)(new, devices.shard(data))
    assert_close(devices.unreplicate(evaluated), eval_step(expected, data))


@pytest.mark.slow
def test_networks_divide_over_devices_as_a_whole_program():
    """Our own convolutions are primitives, which have to let XLA divide the batch."""
    model = cnnjax.create_model("mobilenet_v2", num_classes=10)
    data = batch(8, 32, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), data["image"])
    random = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: np.abs(random.normal(size=leaf.shape)).astype(np.float32) / max(leaf.size, 1) ** 0.4, variables
    )
    devices = Devices.choose("jit")
    apply = devices.compile_apply(model.apply)
    expected = jax.jit(model.apply)(variables, data["image"])
    assert_close(apply(devices.replicate(variables), data["image"]), expected)


def test_a_batch_is_divided_and_put_where_it_is_computed():
    devices = Devices.choose("jit")
    images = devices.put(batch(16, 8, 3))["image"]
    assert [shard.data.shape for shard in images.addressable_shards] == [(2, 8, 8, 3)] * 8
    assert Devices.choose("single").put(batch(4, 8, 3))["image"].devices() == {jax.devices()[0]}
    assert devices.batch_shard == (0, 1)
    assert devices.pad_batch_size(9) == 16
    with pytest.raises(ValueError, match="divisible by the 8 devices, got 12; take 8, or --parallel single"):
        devices.check_batch_size(12)


def test_random_keys_are_replicated(make_tiny_state):
    devices = Devices.choose("jit")
    state = make_tiny_state(optax.sgd(0.1))
    copy = devices.unreplicate(devices.replicate(state))
    assert isinstance(copy, TrainState)
    assert_close(copy, state, 0)
