"""The claims that are measured: verdicts on made-up numbers, and what experiments take for granted."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.claims import CLAIMS, Setting, drawing, transfer
from cnnjax.claims.augmentation import COPIES, copied
from cnnjax.claims.equivariance import layer_errors
from cnnjax.claims.fitting import Arrays, fit_arrays
from cnnjax.claims.initialization import CASES
from cnnjax.claims.mlp_and_cnn import count, networks
from cnnjax.claims.networks import SmallCNN
from cnnjax.claims.sets import centred, composed, composed_centres, shifted
from cnnjax.visualize.canvas import new_figure


def verdict(name, numbers):
    return CLAIMS[name].judge(numbers)


def drawn_lines(name, numbers):
    """Return the labels of what a claim draws, axes by axis."""
    figure = new_figure(*CLAIMS[name].size)
    CLAIMS[name].draw(numbers, figure)
    figure.canvas.draw()
    return [axes.get_legend_handles_labels()[1] for axes in figure.axes]


def made_up(count=16):
    labels = np.arange(count, dtype=np.int32) % 2
    images = np.broadcast_to(labels[:, None, None, None], (count, 4, 4, 1)).astype(np.float32)
    return Arrays("made up", images, labels, images[:6], labels[:6])


def test_trainings_differ_in_their_seeds_alone():
    model = SmallCNN(num_classes=2, features=(4,))
    fits = fit_arrays(
        model,
        made_up(),
        optax.sgd(0.5),
        (3, 4, 3),
        steps=25,
        batch_size=8,
        record=10,
        watch=lambda state: int(state.step),
    )
    assert [len(row) for row in fits.train_loss] == [3, 3, 3]
    assert fits.train_loss[0] == fits.train_loss[2] != fits.train_loss[1]
    assert fits.train_loss[0][-1] < fits.train_loss[0][0]
    assert fits.watched == [[10, 20, 25]] * 3
    assert fits.train_error[0][0] > fits.train_error[0][-1] == 0
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


def test_harder_sets_are_made_of_the_same_images():
    data = made_up(8)
    middle, anywhere = centred(data, 6), shifted(data, 6)
    assert (middle.train_images[:, 1:5, 1:5] == data.train_images).all()
    for frames in (middle, anywhere):
        assert frames.train_images.shape == (8, 6, 6, 1)
        assert (frames.train_images.sum((1, 2, 3)) == data.train_images.sum((1, 2, 3))).all()
    places = {tuple(np.argwhere(image)[0]) for image in anywhere.train_images[1::2]}
    assert len(places) > 1
    assert (shifted(data, 6).train_images == anywhere.train_images).all()
    scenes = composed(data, 12)
    assert scenes.train_images.shape == (8, 12, 12, 3)
    assert 0 <= scenes.train_images.min() < scenes.train_images.max() <= 1
    assert (scenes.train_labels == data.train_labels).all()


def test_the_mlp_is_as_large_as_the_cnn():
    data = centred(made_up(4), 12)
    mlp, cnn = networks(data).values()
    assert count(mlp, data) == pytest.approx(count(cnn, data), rel=0.02)


def test_offline_copies_are_drawn_once_each():
    data = made_up(4)
    data.train_images[:, :2] = 0.5
    found = copied(data)
    assert len(found.train_images) == len(found.train_labels) == 4 * COPIES
    assert (found.train_labels == np.tile(data.train_labels, COPIES)).all()
    assert len(np.unique(found.train_images[1::4], axis=0)) > 2


def test_a_cnn_has_to_beat_the_mlp_on_both_sets_everywhere():
    better, same = {"50": [90, 91], "200": [95, 96]}, {"50": [90, 91], "200": [90, 91]}
    mlp = {"50": [80, 81], "200": [90, 91]}
    numbers = {
        "parameters": {"MLP": 990, "CNN": 1010},
        "accuracy": {"digits": {"MLP": mlp, "CNN": better}, "shifted digits": {"MLP": mlp, "CNN": better}},
    }
    assert verdict("mlp_and_cnn", numbers).holds
    numbers["accuracy"]["digits"]["CNN"] = same
    found = verdict("mlp_and_cnn", numbers)
    assert not found.holds
    assert (
        "on digits the CNN is clearly more accurate at 1 of 2 numbers of images (50 images 90.5 ± 0.7" in found.reason
    )
    assert drawn_lines("mlp_and_cnn", numbers) == [["MLP, 990 parameters", "CNN, 1,010 parameters"]] * 2


def test_an_mlp_has_to_fall_behind_on_each_harder_set():
    simple = {"MLP": [97, 97.5], "LeNet-5": [98, 98.5], "ResNet-8": [98, 98.5]}
    hard = {"MLP": [60, 61], "LeNet-5": [90, 91], "ResNet-8": [95, 96]}
    assert verdict("harder_sets", {"accuracy": {"digits": simple, "shifted": hard, "scenes": hard}}).holds
    assert not verdict("harder_sets", {"accuracy": {"digits": simple, "shifted": hard, "scenes": simple}}).holds
    # A CNN that is far behind on the simple set has not gained by being level on the harder one.
    late = simple | {"LeNet-5": [50, 51]}
    level = {"MLP": [60, 61], "LeNet-5": [60, 61], "ResNet-8": [95, 96]}
    assert not verdict("harder_sets", {"accuracy": {"digits": late, "shifted": level}}).holds
    assert len(drawn_lines("harder_sets", {"accuracy": {"digits": simple, "shifted": hard}})) == 2


def test_plain_networks_have_to_degrade_and_residual_ones_not():
    def network(error):
        return {"error": [[90, error], [91, error + 1]], "test": [90, 91]}

    def numbers(deep_plain, deep_residual):
        errors = {"plain20": 5, "plain56": deep_plain, "resnet20": 4, "resnet56": deep_residual}
        found = {name: network(error) for name, error in errors.items()}
        return {"dataset": "made up", "steps": 20, "depths": [20, 56], "networks": found}

    assert verdict("residual", numbers(40, 4)).holds
    assert not verdict("residual", numbers(5, 4)).holds
    assert not verdict("residual", numbers(40, 30)).holds
    assert drawn_lines("residual", numbers(40, 4)) == [["plain20", "plain56"], ["resnet20", "resnet56"]]


def test_both_parts_of_dncnn_have_to_be_better_together():
    last = {"both": 30, "residual learning alone": 29, "batch norm alone": 28, "neither": 27}
    psnr = {name: [[15, value], [16, value + 0.1]] for name, value in last.items()}
    numbers = {"noisy": 20.2, "psnr": psnr}
    assert verdict("denoising", numbers).holds
    assert "after 50 steps: both 30.05 ± 0.07 dB" in verdict("denoising", numbers).reason
    assert not verdict("denoising", numbers | {"psnr": psnr | {"neither": psnr["both"]}}).holds
    assert drawn_lines("denoising", numbers) == [[*psnr, "noisy"]]


def test_each_part_of_optimization_has_to_be_as_claimed():
    def rows(value):
        return [[2, value], [2, 1.01 * value]]

    numbers = {
        "dataset": "made up",
        "steps": 20,
        "optimizers": {
            "gradient descent": {"rate": "0.3", "loss": rows(0.5)},
            "Adam": {"rate": "0.01", "loss": rows(0.1)},
        },
        "policies": {"constant": rows(0.2), "cosine": rows(0.1)},
        "batches": {"16": rows(0.1), "64": rows(0.3), "256": rows(0.9)},
    }
    assert verdict("optimization", numbers).holds
    for change in (
        {"optimizers": numbers["optimizers"] | {"Adam": {"rate": "0.01", "loss": rows(0.5)}}},
        {"policies": {"constant": rows(0.1), "cosine": rows(0.2)}},
        {"batches": {"16": rows(0.4), "64": rows(0.3), "256": rows(0.9)}},
    ):
        found = verdict("optimization", numbers | change)
        assert not found.holds
        assert found.reason.count("not as claimed") == 1
    labels = drawn_lines("optimization", numbers)
    assert labels[0] == ["gradient descent, rate 0.3", "Adam, rate 0.01"]
    assert labels[2] == ["batches of 16", "batches of 64", "batches of 256"]


def test_transfer_has_to_help_and_to_want_a_higher_rate_for_the_new_layer():
    features, scratch = {"2": [90, 91], "10": [95, 96]}, {"2": [55, 60], "10": [80, 82]}
    faces = {transfer.FROZEN: features, transfer.SMALL: scratch, transfer.SCRATCH: scratch, transfer.ALL: features}
    numbers = {
        "accuracy": {"faces": faces, "scenes": {name: faces[name] for name in list(faces)[:2]}},
        "factor_labels": 10,
        "factors": {"1": [80, 81], "10": [95, 96], "100": [90, 91]},
        "centres": {
            "features where they are": {"2": [9, 10], "10": [5, 6]},
            "nothing": {"2": [20, 20], "10": [20, 20]},
        },
        "clusters": {name: {"features": [0.7, 0.8], "pixels": [0.1, 0.1]} for name in ("faces", "scenes")},
    }
    assert verdict("transfer", numbers).holds
    assert "with 2 in 3 of 3 comparisons" in verdict("transfer", numbers).reason
    assert "features where they are 9.5 ± 0.7 with 2, 5.5 ± 0.7 with 10" in verdict("transfer", numbers).reason
    assert not verdict("transfer", numbers | {"factors": {"1": [95, 96], "10": [95, 96]}}).holds
    even = {"faces": faces, "scenes": faces | {transfer.SMALL: features}}
    assert not verdict("transfer", numbers | {"accuracy": even}).holds
    labels = drawn_lines("transfer", numbers)
    assert labels[0] == list(faces)
    assert labels[-1] == list(numbers["centres"])


def test_few_labels_are_drawn_by_class_and_the_others_tested_on():
    data = made_up(16)
    places = transfer.places_of(data.train_labels, 3, seed=1)
    assert sorted(data.train_labels[places]) == [0, 0, 0, 1, 1, 1]
    assert len(set(places)) == 6
    assert (places == transfer.places_of(data.train_labels, 3, seed=1)).all()
    assert set(places) != set(transfer.places_of(data.train_labels, 3, seed=2))
    divided = transfer.divided(data, 3)
    assert (len(divided.train_images), len(divided.test_images)) == (6, 6 + 10)
    assert (divided.test_images[:, 0, 0, 0] == divided.test_labels).all()


def test_a_regression_head_finds_the_middles_of_things_on_scenes():
    data = made_up(40)
    data.train_images[:] = data.test_images[:] = 1
    scenes = composed(data, 16)
    train, test = composed_centres(data, 16)
    assert train.shape == (40, 2)
    assert 0 < train.min() < 6 < 10 < train.max() < 16
    assert 0 < test.min() < test.max() < 16
    assert (composed(data, 16).train_images == scenes.train_images).all()
    # What a linear layer can say of places: the places themselves, and no more than their mean where it sees nothing.
    mixed = np.array([[2, 1], [1, 2]])
    assert transfer.regress(train @ mixed, train, test @ mixed, test) < 0.5
    blind = transfer.regress(np.zeros((40, 1)), train, np.zeros((6, 1)), test)
    assert blind == pytest.approx(np.linalg.norm(train.mean(0) - test, axis=1).mean(), rel=1e-4)


def test_the_new_layers_rate_is_part_of_the_optimizers_state():
    params = {"stem": {"kernel": jnp.ones(2)}, "head": {"classifier": {"kernel": jnp.ones(2)}}}
    tx = transfer.optimizer()
    state = optax.tree.set(tx.init(params), rate=jnp.float32(0.01), factor=jnp.float32(100))
    updates, _ = tx.update(params, state, params)
    # Adam's first step is as large as its rate.
    assert updates["stem"]["kernel"] == pytest.approx(-0.01, rel=1e-3)
    assert updates["head"]["classifier"]["kernel"] == pytest.approx(-1, rel=1e-3)


def test_a_frame_has_a_legend_unless_it_is_told_not_to():
    axes = new_figure(4, 3).subplots()
    drawing.seed_dots(axes, {"one": [1, 2], "two": [3, 3]}, "C0", "values")
    drawing.frame(axes, xlabel="kind")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["values"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["one", "two"]
    drawing.frame(other := new_figure(4, 3).subplots(), legend=False)
    assert other.get_legend() is None


def test_regularisation_has_to_close_the_gap_without_a_loss():
    none = {"train": [100, 100], "test": [80, 81]}
    better, worse = {"train": [100, 99], "test": [90, 91]}, {"train": [75, 75], "test": [70, 71]}
    numbers = {
        "dataset": "made up",
        "images": 100,
        "accuracy": {"none": none, "dropout": better, "L2": better},
        "test_loss": {"none": [[0.6, 0.5, 0.9]] * 2, "L2": [[0.6, 0.5, 0.4]] * 2},
        "early": {"step": [40, 40], "test": [82, 83], "loss": [0.5, 0.5]},
        "weights": {kind: {"histogram": [5] * 40, "small": [1, 2]} for kind in ("none", "L2")},
    }
    assert verdict("regularization", numbers).holds
    reason = verdict("regularization", numbers).reason
    assert "after 40 ± 0 steps, the test loss is 0.500 ± 0.000 (accuracy 82.5 ± 0.7 %)" in reason
    assert [len(labels) for labels in drawn_lines("regularization", numbers)] == [2, 2, 2]
    never = {"test_loss": {"none": [[0.6, 0.5, 0.5]] * 2}}
    assert not verdict("regularization", numbers | never).holds
    assert "dropout: test 90.5 ± 0.7 %, 9.0 ± 1.4 points below training" in verdict("regularization", numbers).reason
    for row in (none, worse):
        assert not verdict("regularization", numbers | {"accuracy": numbers["accuracy"] | {"L2": row}}).holds


@pytest.mark.parametrize(
    ("good", "bad", "holds"),
    [([90, 91], [70, 71], True), ([80, 81], [70, 71], False), ([90, 91], [80, 81], False)],
)
def test_augmentation_has_to_help_and_to_hurt(good, bad, holds):
    accuracy = {"none": {"50": [80, 81]}, "shifted and turned": {"50": good}, "flipped": {"50": bad}}
    accuracy["shifted and turned, offline"] = {"50": good}
    assert verdict("augmentation", {"dataset": "made up", "accuracy": accuracy}).holds is holds


def test_a_spread_needs_two_seeds():
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        Setting(seeds=(0,))
