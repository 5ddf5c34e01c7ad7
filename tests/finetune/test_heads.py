"""New heads keep everything else, and cut networks end where they should."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import cnnjax
from cnnjax import finetune

RNG = np.random.default_rng(0)


def drawn(model, images):
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape) * 0.1, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def resnet():
    model = cnnjax.create_model("resnet20", num_classes=10, stage_sizes=(1, 1, 1), features=4)
    images = jnp.asarray(RNG.standard_normal((2, 8, 8, 3)), jnp.float32)
    return model, drawn(model, images), images


@pytest.mark.slow
def test_a_new_classifier_is_drawn_and_the_rest_is_kept(resnet):
    model, variables, images = resnet
    new_model, new = finetune.replace_head(model, variables, 3, jax.random.key(1))
    old, flat = (traverse_util.flatten_dict(tree, sep="/") for tree in (variables, new))
    assert old.keys() == flat.keys()
    assert {name for name in old if old[name] is not flat[name]} == {
        "params/head/classifier/kernel",
        "params/head/classifier/bias",
    }
    assert new_model.apply(new, images).shape == (2, 3)
    kernel = flat["params/head/classifier/kernel"]
    # Uniform within 1 / sqrt(features), as the network draws it; another key, another head.
    assert 0.5 < np.abs(kernel).max() * 16**0.5 <= 1
    assert not np.any(flat["params/head/classifier/bias"])
    _, other = finetune.replace_head(model, variables, 3, jax.random.key(2))
    assert (other["params"]["head"]["classifier"]["kernel"] != kernel).any()
    regression, numbers = finetune.replace_head(model, variables, key=jax.random.key(1), num_outputs=3)
    np.testing.assert_array_equal(numbers["params"]["head"]["classifier"]["kernel"], kernel)
    assert regression == new_model


@pytest.mark.slow
def test_several_heads_share_the_features(resnet):
    model, variables, images = resnet
    new_model, new = finetune.replace_head(model, variables, {"species": 3, "age": 1}, jax.random.key(1))
    outputs = new_model.apply(new, images)
    assert {name: array.shape for name, array in outputs.items()} == {"age": (2, 1), "species": (2, 3)}
    assert new["params"]["stem"]["conv1"]["kernel"] is variables["params"]["stem"]["conv1"]["kernel"]
    assert "head" not in new["params"]
    features = model.clone(num_classes=0).apply(variables, images)
    dense = new["params"]["head_age"]["classifier"]
    np.testing.assert_allclose(outputs["age"], features @ dense["kernel"], rtol=1e-5, atol=1e-6)
    # Paths are those of the network, so that patterns mean the same.
    assert finetune.describe(new["params"], frozen=["stem", "stage*"]).trainable == 16 * 4 + 4
    shapes = jax.eval_shape(new_model.init, jax.random.key(0), images)
    assert jax.tree.structure(shapes["params"]) == jax.tree.structure(new["params"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "squeezenet1_1", "fcn_resnet50", "inception_v3"])
def test_heads_of_every_kind(name):
    """A dense head after a flatten, a convolution, a classifier of pixels, and auxiliary ones."""
    info = cnnjax.model_info(name)
    model = cnnjax.create_model(name, num_classes=info.num_classes)
    images = jax.ShapeDtypeStruct((1, *info.input_size, info.channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    new = jax.eval_shape(lambda v: finetune.replace_head(model, v, 3, jax.random.key(0))[1], variables)
    new_model = model.clone(num_classes=3)
    expected = jax.eval_shape(new_model.init, jax.random.key(0), images)
    assert jax.tree.map(lambda leaf: leaf.shape, new["params"]) == jax.tree.map(
        lambda leaf: leaf.shape, expected["params"]
    )


def test_heads_that_cannot_be(resnet):
    model, variables, _ = resnet
    key = jax.random.key(0)
    for arguments, message in (
        ((model, variables, None, key), "one of num_classes and num_outputs"),
        ((model, variables, 3), "give key="),
        ((model, variables, 0, key), "at least 1 output, got 0"),
        ((model, variables, {}, key), "at least one head"),
        ((model, variables, {"a": -1}, key), "at least 1 output, got -1"),
        ((nn.Dense(3), variables, 3, key), "Dense has no field num_classes"),
        ((model, {"params": {"stem": {"k": 0}}}, 3, key), "no trainable head/classifier"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.replace_head(*arguments)
    with pytest.raises(ValueError, match="one of num_classes and num_outputs"):
        finetune.replace_head(model, variables, 3, key, num_outputs=3)


@pytest.mark.parametrize(
    ("at", "parts"),
    [
        ("stem", {"stem"}),
        ("stage2", {"stem", "stage1", "stage2"}),
        ("stage2/block1/conv1", {"stem", "stage1", "stage2"}),
        ("head", {"stem", "stage1", "stage2", "stage3", "head"}),
    ],
)
def test_a_cut_network_gives_what_the_layer_does(resnet, at, parts):
    model, variables, images = resnet
    network = finetune.cut(model, at)
    expected = cnnjax.extract_features(model, variables, images, layers=[at])[at]
    np.testing.assert_array_equal(network.apply(variables, images), expected)
    own = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    assert own.keys() == parts
    shapes = jax.eval_shape(lambda: variables["params"])
    assert all(own[part] == shapes[part] for part in parts if "/" not in at)
    _, updates = jax.eval_shape(lambda: network.apply(variables, images, train=True, mutable=["batch_stats"]))
    assert updates["batch_stats"]["stem"]["norm1"]["mean"].shape == (4,)


@pytest.mark.slow
def test_cutting_a_rematerialised_network(resnet):
    model, variables, images = resnet
    network = finetune.cut(model.clone(remat=True), "stage2")
    expected = finetune.cut(model, "stage2").apply(variables, images)
    np.testing.assert_allclose(network.apply(variables, images), expected, rtol=1e-6)
    grads = jax.grad(lambda p: network.apply({**variables, "params": p}, images).sum())(variables["params"])
    assert np.any(grads["stem"]["conv1"]["kernel"])
    assert not np.any(grads["stage3"]["block1"]["conv1"]["kernel"])


def test_cutting_where_there_is_nothing(resnet):
    model, variables, images = resnet
    with pytest.raises(ValueError, match="ResNet runs no layer 'stage9'"):
        finetune.cut(model, "stage9").apply(variables, images)
