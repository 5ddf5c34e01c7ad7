"""experiments/autoencode.py: training, PCA beside it, and pictures."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from cnnjax.data import DataError, DataPipeline, ImageDataset
from cnnjax.data.source import ArraySplit
from cnnjax.training import ConfigError

SPEC = importlib.util.spec_from_file_location("autoencode", Path(__file__).parents[2] / "experiments" / "autoencode.py")
script = importlib.util.module_from_spec(SPEC)
# Dataclasses look their module up by name.
sys.modules[SPEC.name] = script
SPEC.loader.exec_module(script)


@pytest.fixture(scope="module")
def bars():
    """Return a data set of 8x8 images of a bright bar, upright or lying, anywhere."""
    generator = np.random.default_rng(0)

    def split(count):
        images, labels = np.zeros((count, 8, 8, 1), np.uint8), generator.integers(0, 2, count).astype(np.int32)
        for image, lying in zip(images, labels, strict=True):
            place = generator.integers(0, 7)
            (image if lying else image.transpose(1, 0, 2))[place : place + 2] = 220
        return ArraySplit(images, labels)

    return ImageDataset("bars", "1.0.0", split(64), split(20), ("upright", "lying"), (8, 8, 1))


@pytest.fixture(autouse=True)
def _digits_are_bars(bars, monkeypatch):
    monkeypatch.setattr(script, "load_dataset", lambda name, data_dir: bars)


def command(workdir, **fields):
    short = {"epochs": 2, "batch_size": 16, "latent": 3, "parallel": "single", "log_steps": 1} | fields
    return [f"--workdir={workdir}", *(f"--{key.replace('_', '-')}={value}" for key, value in short.items())]


@pytest.mark.slow
def test_a_run_is_compared_with_principal_components_and_drawn(bars, tmp_path, capsys):
    assert script.main(command(tmp_path)) == 0
    assert "PCA, 3 components" in capsys.readouterr().out
    found = json.loads((tmp_path / "autoencoding.json").read_text())
    assert list(found["mse"]) == ["autoencoder", "PCA, 3 components", "mean image"]
    rows = {name: split.images.reshape(len(split), -1) / 255 for name, split in vars_of(bars).items()}
    pca = PCA(3).fit(rows["train"])
    back = np.clip(pca.inverse_transform(pca.transform(rows["test"])), 0, 1)
    assert found["mse"]["PCA, 3 components"] == pytest.approx(np.mean((back - rows["test"]) ** 2), rel=1e-4)
    mean = rows["train"].mean(0)
    assert found["mse"]["mean image"] == pytest.approx(np.mean((mean - rows["test"]) ** 2), rel=1e-4)
    result = json.loads((tmp_path / "result.json").read_text())
    # Clipped to what pixels can be, which the loss is not; otherwise the same, to rounding.
    assert found["mse"]["autoencoder"] <= result["test_loss"] * 1.00001
    assert found["mse"]["autoencoder"] == pytest.approx(result["test_loss"], rel=0.2)
    for name in ("reconstructions", "latent", "interpolation"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 20, f"{name} is blank"
    assert script.main(command(tmp_path)) == 0
    assert "The run is complete" in capsys.readouterr().out


def vars_of(dataset):
    return {"train": dataset.train, "test": dataset.test}


def test_noise_goes_in_and_clean_images_are_the_target(bars):
    data = script.NoisyData(DataPipeline.create(bars, 8), noise=30.0, seed=1)
    batches = list(data.test_batches(8))
    clean = np.concatenate([batch["target"][batch["mask"]] for batch in batches])
    np.testing.assert_allclose(clean * 255, bars.test.images, atol=1e-4)
    noisy = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    assert (noisy - clean).std() * 255 == pytest.approx(30, rel=0.1)
    # An image's noise does not depend on how images are divided into batches and processes.
    parts = [list(data.test_batches(12, (index, 2))) for index in range(2)]
    again = [batch["image"][batch["mask"]] for pair in zip(*parts, strict=True) for batch in pair]
    np.testing.assert_array_equal(np.concatenate(again), noisy)


@pytest.mark.exhaustive
def test_the_denoising_network_has_no_code_to_compare(tmp_path):
    arguments = command(tmp_path, model="denoising_autoencoder", noise=50, epochs=1)
    assert script.main(arguments) == 0
    found = json.loads((tmp_path / "autoencoding.json").read_text())
    assert list(found["mse"]) == ["autoencoder", "noisy", "mean image"]
    # Clipping takes a part of the noise of dark pixels away.
    assert 0.3 < found["mse"]["noisy"] / (50 / 255) ** 2 < 1
    assert (tmp_path / "reconstructions.png").exists()
    assert not (tmp_path / "latent.png").exists()


def test_principal_components_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 6)) @ generator.normal(size=(6, 6)) + 3
    ours, theirs = script.Principal(iter([rows[:30], rows[30:]]), 2), PCA(2).fit(rows)
    np.testing.assert_allclose(
        ours.decode(ours.encode(rows)), theirs.inverse_transform(theirs.transform(rows)), atol=1e-8
    )
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_ * 49 / 50)
    # More than there are: everything comes back.
    np.testing.assert_allclose(
        script.Principal(iter([rows]), 9).decode(script.Principal(iter([rows]), 9).encode(rows)), rows
    )
    with pytest.raises(DataError, match="at most 4096 values, got 5000; lower --image-size"):
        script.Principal(iter([np.zeros((1, 5000))]), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"noise": -1.0}, "noise must be at least 0 and finite, got -1.0"),
        ({"model": "resnet18"}, "model must be conv_autoencoder or denoising_autoencoder, got resnet18"),
        ({"model": "conv_autoencoders"}, "unknown"),
        ({"model": "denoising_autoencoder"}, "has no bottleneck; give --noise"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        script.Config(**fields)


def test_unfit_images_are_refused(bars, monkeypatch):
    with pytest.raises(ConfigError, match="images of 10x10 pixels do not fit this network"):
        script.setup(script.Config(image_size=10))
    with pytest.raises(DataError, match="batch_size must be at most 64"):
        script.setup(script.Config(batch_size=65))
    several = ImageDataset("s", "1.0.0", bars.train, bars.test, bars.label_names, (None, None, 1))
    monkeypatch.setattr(script, "load_dataset", lambda name, data_dir: several)
    with pytest.raises(DataError, match="give an --image-size"):
        script.setup(script.Config())
