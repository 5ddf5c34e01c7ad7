"""The claims that are measured: verdicts on made-up numbers, and what experiments take for granted."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.claims import CLAIMS, Setting
from cnnjax.claims.equivariance import layer_errors
from cnnjax.claims.fitting import Arrays, fit_arrays
from cnnjax.claims.initialization import CASES
from cnnjax.claims.networks import SmallCNN


def verdict(name, numbers):
    return CLAIMS[name].judge(numbers)


def test_trainings_differ_in_their_seeds_alone():
    labels = np.arange(16, dtype=np.int32) % 2
    images = np.broadcast_to(labels[:, None, None, None], (16, 2, 2, 1)).astype(np.float32)
    data = Arrays("made up", images, labels, images[:6], labels[:6])
    model = SmallCNN(num_classes=2, features=(4,))
    fits = fit_arrays(model, data, optax.sgd(0.5), (3, 4, 3), steps=25, batch_size=8, record=10)
    assert [len(row) for row in fits.train_loss] == [3, 3, 3]
    assert fits.train_loss[0] == fits.train_loss[2] != fits.train_loss[1]
    assert fits.train_loss[0][-1] < fits.train_loss[0][0]
    assert fits.test_accuracy == fits.train_accuracy == [100, 100, 100]


def test_only_layers_without_stride_shift_their_maps_alike():
    images = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 1), np.float32))
    errors = layer_errors(images, seed=0)
    assert max(errors["convolution"] + errors["max pool, stride 1"]) < 1e-5
    for name, row in errors.items():
        if name.endswith("stride 2"):
            # Even shifts are whole pixels of the map.
            assert max(row[::2]) < 1e-5 < 0.01 < min(row[1::2])
    assert errors["max pool, blur, stride 2"][1] < errors["max pool 2x2, stride 2"][1]


def test_equivariance_needs_all_three_parts():
    numbers = {
        "dataset": "made up",
        "shifts": [0, 1, 2],
        "layers": {
            "convolution": [[0, 1e-7, 0]] * 3,
            "max pool 2x2, stride 2": [[0, 0.4, 0], [0, 0.41, 0], [0, 0.42, 0]],
            "max pool, blur, stride 2": [[0, 0.2, 0], [0, 0.21, 0], [0, 0.22, 0]],
        },
        "accuracy": {
            "CNN without pooling": [[99, 80, 40], [99, 80, 41], [99, 80, 42]],
            "CNN with pooling": [[99, 90, 60], [99, 90, 61], [99, 90, 62]],
        },
    }
    assert verdict("equivariance", numbers).holds
    assert "CNN with pooling 61.0 ± 1.0 %" in verdict("equivariance", numbers).reason
    layers, networks = numbers["layers"], numbers["accuracy"]
    assert not verdict("equivariance", numbers | {"layers": layers | {"convolution": [[0, 1e-3, 0]] * 3}}).holds
    swapped = dict(zip(networks, reversed(networks.values()), strict=True))
    assert not verdict("equivariance", numbers | {"accuracy": swapped}).holds
    no_better = layers | {"max pool, blur, stride 2": layers["max pool 2x2, stride 2"]}
    assert not verdict("equivariance", numbers | {"layers": no_better}).holds


def test_initialisations_are_judged_by_the_factor_of_a_layer():
    def cases(**factors):
        return {
            case: {
                "activations": [[factor**layer for layer in range(5)] for factor in row],
                "gradients": [[factor**-layer for layer in range(5)] for factor in row],
            }
            for case, row in zip(CASES, factors.values(), strict=True)
        }

    good, bad = [0.9, 1.0, 1.1], [0.6, 0.7, 0.75]
    numbers = {"depth": 5, "cases": cases(tanh=good, relu=good, old=bad, wrong=bad)}
    assert verdict("initialization", numbers).holds
    assert "tanh, Glorot: 1.000 ± 0.100 forwards, 1.000 ± 0.100 backwards" in verdict("initialization", numbers).reason
    for factors in ((bad, good, bad, bad), (good, [0.9, 1.0, 1.4], bad, bad), (good, good, bad, good)):
        names = dict(zip(("tanh", "relu", "old", "wrong"), factors, strict=True))
        assert not verdict("initialization", {"depth": 5, "cases": cases(**names)}).holds


def test_vanishing_gradients_are_judged_at_the_greatest_depth():
    def norms(first):
        return {"2": [[1.0, 1.0]] * 2, "16": [[first, 1.0], [first, 1.1]]}

    numbers = {
        "dataset": "made up",
        "steps": 100,
        "norms": {"sigmoid": norms(1e-6), "tanh": norms(0.01), "ReLU": norms(0.9)},
        "learnt": {"sigmoid": [200.0, 200.0], "tanh": [40.0, 50.0], "ReLU": [20.0, 20.0]},
    }
    assert verdict("vanishing", numbers).holds
    assert "sigmoid 9.5e-07 ± 6e-08 and not always in 100 steps" in verdict("vanishing", numbers).reason
    assert not verdict("vanishing", numbers | {"norms": numbers["norms"] | {"tanh": norms(0.5)}}).holds
    assert not verdict("vanishing", numbers | {"norms": numbers["norms"] | {"ReLU": norms(0.05)}}).holds
    assert not verdict("vanishing", numbers | {"learnt": numbers["learnt"] | {"tanh": [20.0, 21.0]}}).holds


def test_batch_norm_has_to_be_faster_and_to_stand_a_higher_rate():
    slow, fast, never = [[2, 2, 2, 0.1]] * 2, [[2, 0.1, 0.1, 0.1]] * 2, [[2, 2, 2, 2]] * 2
    numbers = {
        "dataset": "made up",
        "steps": 40,
        "losses": {"without": {"0.1": slow, "1.0": never}, "with": {"0.1": slow, "1.0": fast}},
        "formulas": {"4": [0.5, 0.7]},
    }
    assert verdict("batch_norm", numbers).holds
    reason = verdict("batch_norm", numbers).reason
    assert "after 20 ± 0 steps (rate 1.0), that without after 40 ± 0 (rate 0.1)" in reason
    assert "is 1 with and 0.1 without" in reason
    assert "60 % for 4 images" in reason
    as_high = numbers["losses"] | {"without": {"0.1": slow, "1.0": slow}}
    assert not verdict("batch_norm", numbers | {"losses": as_high}).holds
    as_slow = numbers["losses"] | {"with": {"0.1": slow, "1.0": slow}}
    assert not verdict("batch_norm", numbers | {"losses": as_slow}).holds


def test_max_pooling_has_to_beat_both_others():
    numbers = {"dataset": "made up", "accuracy": {"max": [98, 99], "average": [95, 96], "L2": [95, 96]}}
    assert verdict("pooling", numbers).holds
    assert not verdict("pooling", numbers | {"accuracy": numbers["accuracy"] | {"L2": [98, 98]}}).holds


def test_regularisation_has_to_close_the_gap_without_a_loss():
    none = {"train": [100, 100], "test": [80, 81]}
    better, worse = {"train": [100, 99], "test": [90, 91]}, {"train": [75, 75], "test": [70, 71]}
    numbers = {"dataset": "made up", "images": 100, "accuracy": {"none": none, "dropout": better, "L2": better}}
    assert verdict("regularization", numbers).holds
    assert "dropout: test 90.5 ± 0.7 %, 9.0 ± 1.4 points below training" in verdict("regularization", numbers).reason
    for row in (none, worse):
        assert not verdict("regularization", numbers | {"accuracy": numbers["accuracy"] | {"L2": row}}).holds


@pytest.mark.parametrize(
    ("good", "bad", "holds"),
    [([90, 91], [70, 71], True), ([80, 81], [70, 71], False), ([90, 91], [80, 81], False)],
)
def test_augmentation_has_to_help_and_to_hurt(good, bad, holds):
    accuracy = {"none": {"50": [80, 81]}, "shifted and turned": {"50": good}, "flipped": {"50": bad}}
    assert verdict("augmentation", {"dataset": "made up", "accuracy": accuracy}).holds is holds


def test_a_spread_needs_two_seeds():
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        Setting(seeds=(0,))
