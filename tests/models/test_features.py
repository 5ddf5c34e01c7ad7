"""Features by layer, and what is known of stages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax


@pytest.fixture(scope="module")
def resnet():
    model = cnnjax.create_model("resnet20", num_classes=10)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    random = np.random.default_rng(0)
    # Positive, for the sake of the variances.
    variables = jax.tree.map(lambda leaf: np.float32(random.uniform(0, 0.1, leaf.shape)), shapes)
    return model, variables, images


def convolutions(function, *args):
    """Return how many convolutions, and products in place of them, the compiled program of a function computes."""
    return len(re.findall(r" = \S+ (?:convolution|dot)\(", jax.jit(function).lower(*args).compile().as_text()))


@pytest.mark.slow
def test_features_are_what_the_layers_give(resnet):
    model, variables, images = resnet
    layers = ["stage3", "head", "stage1/block2/conv1"]
    features = jax.jit(lambda v, x: cnnjax.extract_features(model, v, x, layers=layers))(variables, images)
    assert features.keys() == set(layers)
    assert features["stage1/block2/conv1"].shape == (2, 16, 16, 16)
    np.testing.assert_allclose(
        features["stage3"].mean((1, 2)), model.clone(num_classes=0).apply(variables, images), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(features["head"], model.apply(variables, images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_layers_behind_the_last_are_not_computed(resnet):
    model, variables, images = resnet

    def features(layers):
        return lambda v, x: cnnjax.extract_features(model, v, x, layers=layers)

    # The classifier is the product.
    assert convolutions(features(["head"]), variables, images) == 19 + 1
    assert convolutions(features(["stage2", "stage1"]), variables, images) == 13
    assert convolutions(features(["stage1"]), variables, images) == 7
    assert convolutions(features(["stem"]), variables, images) == 1


@pytest.mark.slow
def test_features_of_recomputed_stages_and_in_training_mode(resnet):
    model, variables, images = resnet

    def features(model, **options):
        run = jax.jit(lambda v, x: cnnjax.extract_features(model, v, x, layers=["stage2", "stage2/block1"], **options))
        return run(variables, images)

    plain = features(model)
    recomputed = features(model.clone(remat=True))
    for layer in plain:
        np.testing.assert_allclose(plain[layer], recomputed[layer], rtol=1e-5, atol=1e-5)
    trained = features(model, train=True, mutable=["batch_stats"])
    assert not np.allclose(plain["stage2"], trained["stage2"])


def test_unknown_layers_name_near_ones(resnet):
    model, variables, images = resnet
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)

    def extract(layer):
        return jax.eval_shape(lambda v, x: cnnjax.extract_features(model, v, x, layers=[layer]), variables, images)

    with pytest.raises(ValueError, match="ResNet runs no layer 'stage4'; near ones are .*stage3"):
        extract("stage4")
    with pytest.raises(ValueError, match="runs no layer 'qqq'; near ones are stem, stage1, stage2, stage3, head"):
        extract("qqq")


@pytest.mark.exhaustive
def test_features_of_many_stages_have_the_strides_of_the_table():
    for name in ("resnet50", "mobilenet_v2", "vgg11"):
        info = cnnjax.model_info(name)
        model = cnnjax.create_model(name)
        images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        maps = jax.eval_shape(
            lambda v, x, m=model, s=info.stages: cnnjax.extract_features(m, v, x, layers=list(s)), variables, images
        )
        for stage, stride in info.stages.items():
            assert maps[stage].shape[1:3] == (64 // stride, 96 // stride)


@pytest.mark.slow
def test_strides_of_stages():
    assert dict(cnnjax.model_info("resnet50").stages) == {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
    assert dict(cnnjax.model_info("resnet20").stages) == {"stage1": 1, "stage2": 2, "stage3": 4}
    # Convolutions without padding change sizes, not strides.
    assert dict(cnnjax.model_info("lenet5").stages) == {"stage1": 2, "stage2": 4}
    with pytest.raises(TypeError):
        cnnjax.model_info("lenet5").stages["stage1"] = 3
