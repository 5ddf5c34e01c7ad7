"""States under JAX's transformations, of any kind of keys, in files and in copies."""

import copy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from cnnjax.finetune import check_frozen
from cnnjax.runs import Checkpoints
from cnnjax.training import TrainState


class Scale(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return images * self.param("kernel", nn.initializers.normal(), (3,)).reshape(1, 1, 1, 3)


def create(key):
    return TrainState.create(Scale(), optax.adam(0.1), key, jnp.zeros((1, 2, 2, 3)), ema=True)


def assert_same(one, other):
    one, other = ({**vars(state), "rng": jax.random.key_data(state.rng)} for state in (one, other))
    for name in ("step", "params", "opt_state", "ema", "rng"):
        jax.tree.map(np.testing.assert_array_equal, one[name], other[name])


def test_states_are_created_within_programs():
    state = create(jax.random.key(3))
    assert_same(state, jax.jit(create)(jax.random.key(3)))
    assert jax.eval_shape(create, jax.random.key(3)).params["kernel"].shape == (3,)
    assert jax.vmap(create)(jax.random.split(jax.random.key(0), 2)).params["kernel"].shape == (2, 3)


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_states_of_any_kind_of_keys_are_serialised_copied_and_restored(kind, tmp_path):
    state, other = (create(jax.random.key(seed, impl=kind)) for seed in (3, 4))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(1, other)[0]
    for again in (serialization.from_bytes(other, serialization.to_bytes(state)), copy.deepcopy(state), restored):
        assert_same(state, again)
        assert jax.random.key_impl(again.rng) == jax.random.key_impl(state.rng)


def test_frozen_leaves_are_compared_in_bare_parameters_too():
    params = {"stem": {"kernel": jnp.zeros(2)}, "head": {"kernel": jnp.zeros(2)}}
    check_frozen(params, params | {"head": {"kernel": jnp.ones(2)}}, ["stem"])
    with pytest.raises(AssertionError, match="stem/kernel"):
        check_frozen(params, params | {"stem": {"kernel": jnp.ones(2)}}, ["stem"])
