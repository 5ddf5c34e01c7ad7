import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import cnnjax

WITH_AUX = ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"]
IMAGES = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)


def variables_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", WITH_AUX)
def test_auxiliary_logits_are_there_for_who_asks(name, train):
    model = cnnjax.create_model(name, num_classes=5)
    variables = variables_of(model)
    assert "aux_logits" not in variables

    def apply(variables, images):
        mutable = ["batch_stats", "aux_logits"]
        return model.apply(variables, images, train, mutable=mutable, rngs={"dropout": jax.random.key(0)})

    out, updates = jax.eval_shape(apply, variables, IMAGES)
    (aux,) = updates["aux_logits"]["aux1"]
    assert aux.shape == out.shape == (1, 64, 96, 5)
    assert aux.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_AUX)
def test_the_auxiliary_head_costs_nothing_unless_asked_for(name):
    model = cnnjax.create_model(name, num_classes=5)
    variables = variables_of(model)
    without = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "aux1"}}
    assert jax.eval_shape(model.apply, without, IMAGES).shape == (1, 64, 96, 5)
    assert "aux1" not in variables_of(model.clone(aux=False))["params"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strides"), [("fcn_resnet50", 8), ("deeplabv3_resnet50", 8), ("deeplabv3_mobilenet_v3_large", 16)]
)
def test_features_have_the_resolution_of_the_encoder(name, strides):
    for fields, expected in (({}, strides), ({"output_stride": 32}, 32)):
        model = cnnjax.create_model(name, num_classes=0, **fields)
        features = jax.eval_shape(
            lambda model=model: model.init_with_output(jax.random.key(0), jnp.zeros(IMAGES.shape))
        )
        assert features[0].shape[1:3] == (64 // expected, 96 // expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fcn_resnet50", "resnet18"),
        ("deeplabv3_resnet50", "mobilenet_v3_small"),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_small"),
    ],
)
def test_other_backbones(name, backbone):
    model = cnnjax.create_model(name, num_classes=3, backbone=backbone, output_stride=16)
    assert jax.eval_shape(model.apply, variables_of(model), IMAGES).shape == (1, 64, 96, 3)


@pytest.mark.slow
def test_every_classifier_is_drawn_anew_for_other_classes():
    name = "lraspp_mobilenet_v3_large"
    shapes = cnnjax.pretrained.reference_shapes(name)
    state = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    variables = cnnjax.pretrained.from_state_dict(name, state, num_classes=5, redraw_head=jax.random.key(0))
    drawn = {path for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items() if leaf.any()}
    assert all(path.endswith("classifier/kernel") for path in drawn)
    assert len(drawn) == 2
    back = cnnjax.pretrained.to_state_dict(name, variables)
    assert {key for key, value in back.items() if value.shape[:1] == (5,)} == {
        key for key, shape in shapes.items() if shape[:1] == (21,)
    }


@pytest.mark.parametrize("name", [*WITH_AUX, "lraspp_mobilenet_v3_large"])
def test_an_unknown_backbone_or_stride_is_refused(name):
    with pytest.raises(ValueError, match="backbone must be one of .*, got 'vgg16'"):
        variables_of(cnnjax.create_model(name, backbone="vgg16"))
    with pytest.raises(ValueError, match="output_stride must be one of .*, got 7"):
        variables_of(cnnjax.create_model(name, output_stride=7))
