import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.models.lenet import CONNECTIONS, output_codes, scaled_tanh
from cnnjax.pretrained import from_state_dict, reference_shapes, to_state_dict


def test_connection_table_is_the_papers():
    assert len(CONNECTIONS) == 16
    assert len(set(CONNECTIONS)) == 16
    assert sum(map(len, CONNECTIONS)) == 60
    # Each map of S2 feeds ten of C3 (a row of table I).
    assert [sum(index in row for row in CONNECTIONS) for index in range(6)] == [10] * 6


def test_squashing_fixes_plus_and_minus_one():
    x = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(scaled_tanh(x), x, atol=1e-4)


def test_codes_are_signs_that_differ_and_agree_between_numbers_of_classes():
    codes = output_codes(26, 84)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    assert min((a != b).sum() for a, b in itertools.combinations(codes, 2)) >= 10
    np.testing.assert_array_equal(output_codes(3, 84), codes[:3])
    np.testing.assert_array_equal(output_codes(26, 84), codes)


@pytest.mark.slow
def test_logits_of_1998_are_negated_squared_distances_to_the_codes():
    images = jax.random.normal(jax.random.key(0), (2, 36, 32, 1))
    model = cnnjax.create_model("lenet5_1998", num_classes=12)
    variables = model.init(jax.random.key(1), images)
    features = np.asarray(model.clone(num_classes=0).apply(variables, images))
    expected = [[-((x - code) ** 2).sum() for code in output_codes(12, 84)] for x in features]
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-5)


def test_weights_of_1998_travel_although_its_classifier_has_none():
    shapes = reference_shapes("lenet5_1998", source="torch")
    state = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    variables = from_state_dict("lenet5_1998", state, source="torch", num_classes=3, redraw_head=jax.random.key(0))
    assert to_state_dict("lenet5_1998", variables, source="torch").keys() == state.keys()


def test_the_pair_with_and_without_normalisation_and_dropout(compile_quickly):
    images = jnp.ones((2, 12, 12, 1)) * jnp.arange(2.0).reshape(2, 1, 1, 1)
    fields = {"num_classes": 3, "conv_features": (2, 3), "dense_features": (4,), "activation": "sigmoid"}
    plain = cnnjax.create_model("lenet5", **fields)
    both = cnnjax.create_model("lenet5", **fields, batch_norm=True, dropout_rate=0.5)

    def run(key):
        variables = both.init(key, images)
        outputs = both.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        again = both.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return variables, both.apply(variables, images), *outputs, again[0]

    variables, tested, trained, updates, again = compile_quickly(run, jax.random.key(0))(jax.random.key(0))
    assert set(variables["params"]["stage1"]) == {"conv1", "norm1"}
    assert "bias" not in variables["params"]["stage1"]["conv1"]
    np.testing.assert_array_equal(trained, again)
    assert not np.allclose(tested, trained)
    assert np.any(updates["batch_stats"]["stage1"]["norm1"]["mean"] != 0)
    assert "batch_stats" not in jax.eval_shape(plain.init, jax.random.key(0), images)
