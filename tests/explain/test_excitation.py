"""Feature maps, the patches that excite channels most, and images made to excite them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import explain


class Net(nn.Module):
    """Two 3x3 convolutions, the second with stride 2, and a dense layer over the mean."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(cnnjax.nn.Conv(3, (3, 3), padding="VALID", name="conv1")(x))
        x = cnnjax.nn.Conv(4, (3, 3), strides=2, padding="VALID", name="conv2")(x)
        return nn.Dense(3, name="dense")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def data():
    return jax.random.normal(jax.random.key(1), (11, 12, 12, 1))


@pytest.fixture(scope="module")
def variables(data):
    return Net().init(jax.random.key(0), data)


def test_feature_maps_are_those_of_every_layer_with_positions(data, variables):
    maps = explain.feature_maps(Net(), variables, data)
    assert {path: found.shape[1:] for path, found in maps.items()} == {"conv1": (10, 10, 3), "conv2": (4, 4, 4)}
    with pytest.raises(ValueError, match="near ones are conv"):
        explain.feature_maps(Net(), variables, data, layers=["conv3"])


def test_top_activations_are_those_of_the_whole_data_set(data, variables):
    found = explain.top_activations(
        Net(),
        variables,
        (data[start : start + 4] for start in range(0, 11, 4)),
        layer="conv2",
        channels=[2, 0],
        count=3,
    )
    maps = np.asarray(explain.feature_maps(Net(), variables, data)["conv2"])
    for row, channel in enumerate((2, 0)):
        best = maps[..., channel].max((1, 2))
        order = np.argsort(-best)[:3]
        np.testing.assert_array_equal(found.indices[row], order)
        np.testing.assert_allclose(found.values[row], best[order], rtol=1e-5)
        np.testing.assert_array_equal(found.images[row], np.asarray(data)[order])
        for rank, index in enumerate(order):
            place = np.unravel_index(maps[index, ..., channel].argmax(), (4, 4))
            np.testing.assert_array_equal(found.places[row, rank], place)
            # Two 3x3 convolutions see 5x5 pixels, and strides of 2 move that.
            top, left = 2 * place[0], 2 * place[1]
            np.testing.assert_array_equal(found.boxes[row, rank], [top, left, top + 5, left + 5])
            np.testing.assert_array_equal(
                found.patch(row, rank), found.images[row, rank, top : top + 5, left : left + 5]
            )


def test_a_small_data_set_leaves_places_empty(data, variables):
    found = explain.top_activations(Net(), variables, [data[:2]], count=3)
    assert found.layer == "conv2"
    assert (found.indices[:, 2] == -1).all()
    assert np.isneginf(found.values[:, 2]).all()
    with pytest.raises(ValueError, match="at least one batch"):
        explain.top_activations(Net(), variables, [])
    with pytest.raises(ValueError, match="one size"):
        explain.top_activations(Net(), variables, [data[:2], data[:2, :9]])
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        explain.top_activations(Net(), variables, [data[:2]], channels=[4])


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"target": 1, "shape": (1, 12, 12, 1)},
        {
            "target": 2,
            "layer": "conv2",
            "shape": (1, 12, 12, 1),
            "parametrization": "pixels",
            "blur": 0.7,
            "decay": 0.01,
        },
        {"layer": "conv1", "images": True},
    ],
    ids=["class", "channel", "dream"],
)
def test_images_come_to_excite_what_they_are_made_for(data, variables, fields):
    fields = fields | ({"images": data[:1]} if "images" in fields else {})

    def make(steps):
        found = explain.activation_maximization(
            Net(), variables, jax.random.key(3), steps=steps, jitter=1, limits=(-2.0, 2.0), **fields
        )
        layer = fields.get("layer")
        if layer is None:
            return found, Net().apply(variables, found)[0, 1]
        maps = explain.feature_maps(Net(), variables, found)[layer]
        return found, (maps**2).mean() if "target" not in fields else maps[..., 2].mean()

    (_, before), (found, after) = make(1), make(40)
    assert found.shape == (1, 12, 12, 1)
    assert float(jnp.abs(found).max()) < 2.2
    assert after > before + 0.1 * abs(before)


def test_pixels_of_a_linear_score_move_along_its_gradient():
    found = explain.activation_maximization(
        Mean(), {}, jax.random.key(0), images=jnp.zeros((1, 4, 4, 1)), target=0, steps=10, learning_rate=0.1,
        parametrization="pixels", jitter=2,
    )  # fmt: skip
    np.testing.assert_allclose(found, 1.0, rtol=1e-3)


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.mean((1, 2))


def test_what_makes_no_sense_is_refused(variables):
    make = lambda **fields: explain.activation_maximization(Net(), variables, jax.random.key(0), **fields)  # noqa: E731
    shape = (1, 12, 12, 1)
    for message, fields in (
        ("either shape", {"target": 1}),
        ("a target", {"shape": shape}),
        ("parametrization must", {"shape": shape, "target": 1, "parametrization": "wavelets"}),
        ("decay and blur", {"shape": shape, "target": 1, "blur": 1.0}),
        ("learning_rate must", {"shape": shape, "target": 1, "learning_rate": 0.0}),
        ("limits must", {"shape": shape, "target": 1, "limits": (1.0, 0.0)}),
    ):
        with pytest.raises(ValueError, match=message):
            make(**fields)
