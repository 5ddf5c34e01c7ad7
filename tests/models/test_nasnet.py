from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.nasnet import NASNet, NormalCell
from cnnjax.nn import BatchNorm, Conv


def build(**fields):
    fields = {"repeats": 1, "penultimate_features": 96, "stem_features": 8, "skip_reduction": True} | fields
    return NASNet(**fields, num_classes=5)


IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 45, 3))


@pytest.mark.exhaustive
def test_cells_can_be_recomputed():
    model = build(remat=True)
    variables = jax.eval_shape(model.init, jax.random.key(1), IMAGES)
    assert jax.tree.structure(variables) == jax.tree.structure(jax.eval_shape(build().init, jax.random.key(1), IMAGES))

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        return (model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[0] ** 2).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(variables["params"], variables["batch_stats"]))
    # A recomputed part for each of the seven cells.
    assert program.count("prevent_cse=True") == 7


@pytest.mark.slow
def test_dropped_paths_follow_the_key_and_spare_evaluation():
    def cell(rate):
        return NormalCell(
            features=4,
            halve=False,
            conv=partial(Conv, use_bias=False),
            norm=BatchNorm,
            activation=nn.relu,
            stochastic_depth_rate=rate,
            pool_padding="zeros",
        )

    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    variables = cell(0.0).init(jax.random.key(1), x, x, False)

    @jax.jit
    def train(key):
        return cell(0.5).apply(variables, x, x, True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    first, again, other = (train(jax.random.key(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-3
    evaluate = [jax.jit(partial(cell(rate).apply, train=False))(variables, x, x) for rate in (0.0, 0.5)]
    np.testing.assert_array_equal(*evaluate)


@pytest.mark.slow
def test_stages_halve_the_resolution_and_give_arrays():
    model = build()
    variables = jax.eval_shape(model.init, jax.random.key(1), IMAGES)
    _, state = jax.eval_shape(lambda v: model.apply(v, IMAGES, capture_intermediates=True), variables)
    shapes = {name: layer["__call__"][0].shape for name, layer in state["intermediates"].items() if "__call__" in layer}
    assert shapes["stem"] == (2, 15, 22, 8)
    assert [shapes[f"stage{index}"] for index in range(1, 5)] == [
        (2, 8, 11, 4),
        (2, 4, 6, 24),
        (2, 2, 3, 48),
        (2, 1, 2, 96),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"penultimate_features": 100}, "penultimate_features must be a multiple of 96, got 100"),
        ({"pool_padding": "VALID"}, "pool_padding must be 'zeros' or 'SAME', got 'VALID'"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields).init(jax.random.key(0), IMAGES)
