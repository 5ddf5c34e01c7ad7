import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax


def test_the_network_predicts_what_it_takes_away():
    images = jax.random.uniform(jax.random.key(0), (1, 12, 12, 1))
    clean = cnnjax.create_model("dncnn17_grey", depth=4)
    noise = cnnjax.create_model("dncnn17_grey", depth=4, residual=False)
    variables = clean.init(jax.random.key(1), images)
    np.testing.assert_array_equal(clean.apply(variables, images), images - noise.apply(variables, images))


def test_without_batch_norm_the_middle_has_biases():
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    bare = cnnjax.create_model("dncnn17_grey", depth=4, batch_norm=False)
    variables = jax.eval_shape(bare.init, jax.random.key(0), images)
    assert set(variables) == {"params"}
    params = variables["params"]
    for layer, arrays in (
        (params["stem"], {"kernel"}),
        (params["head"], {"kernel"}),
        (params["stage1"]["block2"], {"bias", "kernel"}),
    ):
        assert set(layer["conv1"]) == arrays


def test_too_few_convolutions_are_refused():
    with pytest.raises(ValueError, match="depth must be at least 3.*got 2"):
        cnnjax.create_model("dncnn17_grey", depth=2).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
