"""What the residual networks share beyond the contract: dilation, depth, and what plain networks cannot do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import one_each

import cnnjax

SHALLOW = {"stage_sizes": (1, 2, 1, 1)}
SMALL = {"stage_sizes": (1, 2, 2)}
# Name, fields that make it quick to compute, published and smaller output stride, size of the images. SENet is not
# here: its gates average over more positions.
DILATED = (
    ("resnet18", SHALLOW, 32, 8, 64),
    ("resnet50", SHALLOW, 32, 16, 64),
    ("resnet50", SHALLOW | {"strided_conv": 1}, 32, 16, 64),
    ("resnet20", SMALL, 4, 2, 16),
    ("resnetv2_50", SHALLOW, 32, 8, 64),
    ("resnetv2_50", SHALLOW | {"strided_block": "last"}, 32, 8, 64),
    ("resnet164", SMALL, 4, 2, 16),
    ("wrn_16_8", {"width": 1, "depth": 10}, 4, 2, 16),
)


def last_stage(model, variables, images):
    """Return the output of the last stage."""
    name = max(key for key in variables["params"] if key.startswith("stage"))
    _, state = model.apply(
        variables, images, capture_intermediates=lambda module, _: module.name == name, mutable=["intermediates"]
    )
    return state["intermediates"][name]["__call__"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "published", "smaller", "size"),
    [DILATED[0], *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in DILATED[1:])],
)
def test_dilated_networks_see_what_strided_ones_see(name, fields, published, smaller, size, compile_quickly):
    images = jax.random.normal(jax.random.key(0), (1, size, size, 3))
    strided = cnnjax.create_model(name, **fields)
    dilated = strided.clone(output_stride=smaller)
    key = jax.random.key(1)
    variables = compile_quickly(strided.init, key, images)(key, images)
    coarse, fine = (
        compile_quickly(partial(last_stage, model), variables, images)(variables, images)
        for model in (strided, dilated)
    )
    assert (coarse.shape[1], fine.shape[1]) == (size // published, size // smaller)
    step = published // smaller
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, rtol=1e-4, atol=1e-4 * np.abs(coarse).max())


@pytest.mark.parametrize("fields", [{"stochastic_depth_rate": 0.1}, {"zero_init_residual": True}])
def test_plain_networks_cannot_lose_a_block(fields):
    model = cnnjax.create_model("plain20", num_classes=10, **fields)
    with pytest.raises(ValueError, match="without shortcuts needs stochastic_depth_rate=0"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_impossible_depths_and_strides_are_refused():
    images = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="depth must be .*6n \\+ 4, got 17"):
        jax.eval_shape(cnnjax.create_model("wrn_16_8", depth=17).init, jax.random.key(0), images)
    with pytest.raises(ValueError, match="output_stride must be one of .*, got 3"):
        jax.eval_shape(cnnjax.create_model("resnet18", output_stride=3).init, jax.random.key(0), images)


@pytest.mark.slow
def test_wide_resnet_drops_values_in_training_only(compile_quickly):
    model = cnnjax.create_model("wrn_16_8", num_classes=10, width=1, depth=10, dropout_rate=0.3)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    key = jax.random.key(1)
    variables = compile_quickly(model.init, key, images)(key, images)

    def train(key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    train = compile_quickly(train, key)
    assert (train(key) != train(jax.random.key(2))).any()


@pytest.mark.parametrize(
    "name", one_each(["resnet20", "resnet164", "wrn_16_8", "densenet_40_12"], plain=["resnet20", "wrn_16_8"])
)
def test_recomputing_stages_changes_no_parameter(name):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    plain, remat = (
        jax.eval_shape(cnnjax.create_model(name, remat=remat).init, jax.random.key(0), images)
        for remat in (False, True)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
