"""What `create_model` makes of names, of functions by name, and of images that are no images."""

import copy
import pickle

import jax
import jax.numpy as jnp
import pytest

import cnnjax
from cnnjax import models
from cnnjax.models import VARIANTS
from cnnjax.nn.building import check_images


def test_the_number_of_classes_is_the_published_one():
    for name, variant in VARIANTS.items():
        model = cnnjax.create_model(name)
        assert getattr(model, "num_classes", None) == variant.info.num_classes, name
    assert cnnjax.create_model("lenet5", num_classes=1000).num_classes == 1000
    with pytest.raises(ValueError, match="leave num_classes out, got 1000"):
        cnnjax.create_model("dncnn17_grey", num_classes=1000)


def test_functions_go_by_their_names():
    assert cnnjax.create_model("alexnet", activation="sigmoid").activation is cnnjax.nn.logistic
    assert cnnjax.create_model("alexnet", activation=jnp.sin).activation is jnp.sin
    for value in ("sigmoyd", 3, ["relu"]):
        with pytest.raises(ValueError, match="activation of alexnet must be a function or one of .*sigmoid"):
            cnnjax.create_model("alexnet", activation=value)


def test_every_network_is_pickled():
    for name in cnnjax.list_models():
        model = cnnjax.create_model(name, dtype=jnp.bfloat16)
        again = pickle.loads(pickle.dumps(model))
        assert again == model, name
        copy.deepcopy(model)


@pytest.mark.parametrize("kind", ["ACTIVATIONS", "INITIALIZERS"])
def test_whatever_fields_can_be_called_by_name_is_pickled(kind):
    for name, function in getattr(models, kind).items():
        again = pickle.loads(pickle.dumps(function))
        assert again == function, name


def test_public_facts_and_networks_are_pickled_and_copied():
    info = cnnjax.model_info("lenet5")
    stages = dict(info.stages)
    for again in (pickle.loads(pickle.dumps(info)), copy.deepcopy(info)):
        assert again == info
        assert dict(again.stages) == stages
    for variant in (pickle.loads(pickle.dumps(VARIANTS["lenet5"])), copy.deepcopy(VARIANTS["lenet5"])):
        assert variant == VARIANTS["lenet5"]
        with pytest.raises(TypeError):
            variant.fields["x"] = 1
    for name in cnnjax.list_models():
        pickle.dumps(cnnjax.model_info(name))


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (2, 1, 28, 28)])
def test_channels_first_is_called_that(shape):
    with pytest.raises(ValueError, match=r"channels last.*moveaxis\(images, 1, -1\)"):
        check_images(jax.eval_shape(lambda: jnp.zeros(shape)))
    check_images(jnp.moveaxis(jnp.zeros(shape), 1, -1))


@pytest.mark.parametrize("name", ["lenet5", "mlp", "conv_autoencoder"])
def test_no_images_give_no_outputs_as_in_flax(name):
    model = cnnjax.create_model(name)
    size = (*cnnjax.model_info(name).input_size, cnnjax.model_info(name).channels)

    def outputs(images):
        return model.init_with_output(jax.random.key(0), images)[0]

    some, none = (jax.eval_shape(outputs, jax.ShapeDtypeStruct((count, *size), jnp.float32)) for count in (2, 0))
    assert none.shape == (0, *some.shape[1:])
