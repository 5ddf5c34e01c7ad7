"""The fields of the Inception networks that the table of variants does not try."""

import jax
import jax.numpy as jnp
import pytest

import cnnjax

# Published sizes of versions that differ from the table's by fields: of the papers, of torchvision, of Keras.
SIZES = [
    ("inception_v1", {"aux_classifiers": True}, 13_378_280),
    ("googlenet", {"aux_classifiers": True}, 13_004_888),
    ("inception_v3", {"aux_classifiers": False}, 23_834_568),
    ("inception_v3", {"aux_classifiers": False, "norm_scale": False}, 23_817_352),
    pytest.param("inception_resnet_v2", {"norm_scale": False}, 55_813_192, marks=pytest.mark.exhaustive),
]


def shapes(model, size=96):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return images, jax.eval_shape(model.init, jax.random.key(0), images)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields", "size"), SIZES)
def test_published_sizes(name, fields, size):
    _, variables = shapes(cnnjax.create_model(name, **fields))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "heads", "remat"),
    [
        ("inception_v1", ["aux1", "aux2"], False),
        ("inception_v1", ["aux1", "aux2"], True),
        pytest.param("inception_v3", ["aux1"], False, marks=pytest.mark.exhaustive),
    ],
)
def test_auxiliary_logits_are_there_for_who_asks_while_training(name, heads, remat):
    model = cnnjax.create_model(name, num_classes=7, aux_classifiers=True, remat=remat)
    images, variables = shapes(model)
    assert "aux_logits" not in variables
    assert [key for key in variables["params"] if key.startswith("aux")] == heads

    def outputs(train, mutable):
        def apply(variables, images):
            return model.apply(variables, images, train=train, mutable=mutable, rngs={"dropout": jax.random.key(1)})

        logits, updates = jax.eval_shape(apply, variables, images)
        assert logits.shape == (2, 7)
        return updates

    asked = outputs(True, ["batch_stats", "aux_logits"])["aux_logits"]
    assert {key: [leaf.shape for leaf in value] for key, value in asked.items()} == {key: [(2, 7)] for key in heads}
    assert "aux_logits" not in outputs(True, ["batch_stats"])
    assert not outputs(False, ["aux_logits"]).get("aux_logits")


@pytest.mark.parametrize("name", ["inception_v1", pytest.param("inception_v3", marks=pytest.mark.exhaustive)])
def test_networks_without_classes_have_no_auxiliary_classifiers(name):
    _, variables = shapes(cnnjax.create_model(name, num_classes=0, aux_classifiers=True))
    assert not any(key.startswith(("aux", "head")) for key in variables["params"])


@pytest.mark.slow
def test_the_naive_modules_hand_their_input_on():
    def blocks(name):
        _, variables = shapes(cnnjax.create_model(name))
        return variables["params"]["stage2"]["block2"]

    # Module 3b sees 3a's 64 + 128 + 32 filters and, naively, all of its 192 inputs instead of a projection to 32.
    assert blocks("inception_v1")["branch1"]["conv1"]["kernel"].shape == (1, 1, 256, 128)
    assert blocks("inception_v1_naive")["branch1"]["conv1"]["kernel"].shape == (1, 1, 416, 128)
    assert blocks("inception_v1_naive").keys() == {"branch1", "branch2", "branch3"}
