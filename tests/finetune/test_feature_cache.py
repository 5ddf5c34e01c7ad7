"""Features on disk: each computed once, whatever happens in between, and never another network's."""

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax.data import load_dataset
from cnnjax.data.source import ArraySplit, Joined, Section, Selection, example_name
from cnnjax.finetune import FeatureCache, features, hash_variables

SCRIPT = Path(__file__).parents[2] / "experiments" / "features.py"
IDENTITY = {"model": "lenet5", "variables": "abc", "mean": [0.5]}


class Squares:
    """Computes two features of an example, and counts for how many it did."""

    def __init__(self, dies_at=None):
        self.asked = []
        self.dies_at = dies_at

    def __call__(self, start, stop):
        if start == self.dies_at:
            raise KeyboardInterrupt
        self.asked += range(start, stop)
        numbers = np.arange(start, stop)
        return np.stack([numbers, numbers**2], 1).astype(np.float32), numbers % 3


def test_each_example_is_computed_once(tmp_path):
    expected, labels = Squares()(0, 1500)
    killed = Squares(dies_at=1024)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "f", IDENTITY).split("train", 1500, killed)
    # What the process that died was writing.
    (tmp_path / "f" / ".train-00002.npz.part").write_bytes(b"half")
    again = Squares()
    cache = FeatureCache(tmp_path / "f", IDENTITY)
    found = cache.split("train", 1500, again)
    assert killed.asked + again.asked == list(range(1500))
    assert cache.computed == 1500 - 1024
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], labels)
    third = FeatureCache(tmp_path / "f", IDENTITY)
    np.testing.assert_array_equal(third.split("train", 1500, Squares(dies_at=0))[0], expected)
    assert third.computed == 0
    assert third.notices == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "shorter"])
def test_a_damaged_file_is_computed_again(damage, tmp_path):
    expected, _ = FeatureCache(tmp_path, IDENTITY).split("train", 600, Squares())
    file = tmp_path / "train-00000.npz"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[1000] ^= 1
        file.write_bytes(content)
    else:
        np.savez(file, features=expected[:5], labels=np.arange(5))
    cache, squares = FeatureCache(tmp_path, IDENTITY), Squares()
    np.testing.assert_array_equal(cache.split("train", 600, squares)[0], expected)
    assert squares.asked == list(range(512))
    assert "train-00000.npz is damaged" in cache.notices[0]


def test_features_of_something_else_are_refused(tmp_path):
    FeatureCache(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match="something else:\n  variables: 'abc' there, 'abd' now\ngive another folder"):
        FeatureCache(tmp_path, IDENTITY | {"variables": "abd"})
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read .*; delete"):
        FeatureCache(tmp_path, IDENTITY)
    (tmp_path / "features.json").unlink()
    (tmp_path / "train-00000.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="holds train-00000.npz but no features.json"):
        FeatureCache(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match="must return 3 features and labels, got 2 and 3"):
        FeatureCache(tmp_path / "new", IDENTITY).split("train", 3, lambda start, stop: (np.zeros((2, 1)), np.zeros(3)))


def test_hashes_tell_every_bit_path_and_type():
    variables = {"params": {"a": np.zeros(2, np.float32), "b": np.ones((1, 2), np.float32)}}
    others = [
        {"params": {"a": np.array([0, -0.0], np.float32), "b": np.ones((1, 2), np.float32)}},
        {"params": {"a": np.zeros(2, np.int32), "b": np.ones((1, 2), np.float32)}},
        {"params": {"a": np.zeros(2, np.float32), "b": np.ones((2, 1), np.float32)}},
        {"params": {"a": np.zeros(2, np.float32), "c": np.ones((1, 2), np.float32)}},
    ]
    assert len({hash_variables(tree) for tree in [variables, *others]}) == 5
    turned = {"params": dict(reversed(jax.tree.map(jnp.asarray, variables)["params"].items()))}
    assert hash_variables(turned) == hash_variables(variables)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("features_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def stored(script, weights, data, tmp_path_factory):
    """Return a workdir with features of weights from a file, which the network was stopped at and went on to."""
    folder = tmp_path_factory.mktemp("run")
    file = shutil.copy(weights, folder / "lenet5.safetensors")
    command = ["--weights", str(file), "--workdir", str(folder / "w"), "--parallel", "single", *data]
    network_pass = script._NetworkPass.over

    def dying(self, split, source, named):
        compute = network_pass(self, split, source, named)

        def until_killed(start, stop):
            if (split, start) == ("train", features.SHARD):
                raise KeyboardInterrupt
            return compute(start, stop)

        return until_killed

    script._NetworkPass.over = dying
    try:
        assert script.main(command) == 130
    finally:
        script._NetworkPass.over = network_pass
    assert script.main([*command, "--batch-size", "50"]) == 0
    return folder / "w", file, command


@pytest.mark.slow
def test_a_run_that_was_stopped_computes_the_rest(stored, data):
    folder, file, _ = stored
    result = json.loads((folder / "result.json").read_text())["logistic_regression"]
    assert result["images_through_network"] == 1797 - features.SHARD
    assert result["features"] == 84
    assert result["images_per_second"] > 0
    assert result["test_accuracy"] > 0.8
    assert json.loads((folder / "config.json").read_text())["resolved"]["image_size"] == 28
    # They are what the network computes in front of its classifier.
    with np.load(folder / "features" / "test-00000.npz") as stored:
        found = dict(stored)
    images, labels = load_dataset("digits", data[1]).test.read(np.arange(3))
    images = np.stack([np.asarray(Image.fromarray(image[..., 0]).resize((28, 28), 2)) for image in images])[..., None]
    model = cnnjax.create_model("lenet5", num_classes=0)
    variables = cnnjax.pretrained.load("lenet5", file, num_classes=0)
    pixels = (images.astype(np.float32) / 255 - np.float32(0.1307)) / np.float32(0.3081)
    np.testing.assert_allclose(found["features"][:3], model.apply(variables, pixels), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["labels"][:3], labels)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "embedding"), [("svm", "pca"), ("k_means", "pca")])
def test_another_method_needs_no_network(stored, script, method, embedding, monkeypatch):
    folder, _, command = stored
    monkeypatch.setattr(script.Devices, "compile_apply", lambda self, function: None)
    assert script.main([*command, "--method", method, "--embedding", embedding]) == 0
    results = json.loads((folder / "result.json").read_text())
    assert "logistic_regression" in results
    assert results[method]["images_through_network"] == 0
    assert results[method]["images_per_second"] is None
    assert results[method]["test_accuracy"] > (0.3 if method == "k_means" else 0.8)
    with Image.open(folder / f"{method}-{embedding}.png") as picture:
        assert picture.size == ((1800, 720) if method == "k_means" else (900, 720))


def test_other_weights_in_the_same_file_are_refused(stored, script, weights, write_lenet5, capsys):
    _, file, command = stored
    write_lenet5(file, seed=1)
    try:
        assert script.main(command) == 2
    finally:
        shutil.copy(weights, file)
    assert "holds features of something else:\n  variables: '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--at", "stage1"], "at: None there, 'stage1' now"),
        (["--workdir", "OTHER", "--at", "stage9"], "runs no layer 'stage9'"),
        (["--workdir", "OTHER", "--train-examples", "5000"], "train_examples must be from 1 to 1438"),
        (["--workdir", "OTHER", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--workdir", "OTHER", "--model", "unet"], "unet is a network for"),
    ],
)
def test_what_is_refused(stored, script, flags, message, tmp_path, capsys):
    *_, command = stored
    assert script.main([*command, *(str(tmp_path / "w") if flag == "OTHER" else flag for flag in flags)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_without_weights_the_network_is_trained_first(script, data, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "NETWORK_EPOCHS", 0.1)
    command = ["--workdir", str(tmp_path), "--train-examples", "200", "--test-examples", "40", "--at", "stage1"]
    assert script.main([*command, "--parallel", "single", "--embedding", "pca", *data]) == 0
    assert json.loads((tmp_path / "network" / "result.json").read_text())["steps"] == 3
    result = json.loads((tmp_path / "result.json").read_text())["logistic_regression"]
    # The maps' means.
    assert (result["features"], result["images_through_network"]) == (6, 240)
    trained = json.loads((tmp_path / "network" / "config.json").read_text())["resolved"]
    assert json.loads((tmp_path / "config.json").read_text())["resolved"]["mean"] == trained["mean"]


@pytest.mark.slow
def test_an_untrained_network_on_eight_devices(script, data, tmp_path):
    command = ["--workdir", str(tmp_path), "--train-examples", "40", "--test-examples", "20", "--weights", "drawn"]
    assert script.main([*command, "--parallel", "pmap", "--embedding", "pca", *data]) == 0
    with np.load(tmp_path / "features" / "train-00000.npz") as stored:
        found = stored["features"]
    assert found.shape == (40, 84)
    assert len(np.unique(found, axis=0)) == 40


def test_features_that_are_not_finite_are_refused_and_not_stored(script, weights, data, tmp_path, monkeypatch, capsys):
    from_source = script.from_source

    def unlearnt(*arguments, **options):
        network = from_source(*arguments, **options)
        variables = jax.tree.map(lambda leaf: leaf * jnp.float32(jnp.nan), network.variables)
        return dataclasses.replace(network, variables=variables)

    monkeypatch.setattr(script, "from_source", unlearnt)
    command = ["--weights", weights, "--workdir", str(tmp_path / "f"), "--embedding", "pca", *data]
    assert script.main(command) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(
        r"of 512 images have features that are not finite, first train image number \d+; take other", error
    )
    assert not list((tmp_path / "f" / "features").glob("*.npz"))


def test_examples_are_called_after_their_files():
    class Files:
        paths = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")

        def __len__(self):
            return 4

    joined = Joined([ArraySplit(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32)), Section(Files(), 1, 4)])
    names = [example_name(joined, index) for index in range(5)]
    assert names == ["number 0", "number 1", "'a/2.png'", "'b/1.png'", "'b/2.png'"]
    assert example_name(Selection(Files(), np.array([3, 0])), 0) == "'b/2.png'"
