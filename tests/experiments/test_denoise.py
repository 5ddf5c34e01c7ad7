"""experiments/denoise.py: a run from training to a denoised file, and the table of filters."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnnjax.data import DataError
from cnnjax.training import ConfigError, fit
from cnnjax.training import loop as training_loop

SPEC = importlib.util.spec_from_file_location("denoise", Path(__file__).parents[2] / "experiments" / "denoise.py")
script = importlib.util.module_from_spec(SPEC)
# Dataclasses look their module up by name.
sys.modules[SPEC.name] = script
SPEC.loader.exec_module(script)

SHORT = {"epochs": 2, "patches": 4, "batch_size": 2, "patch_size": 8, "parallel": "single", "log_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of five grey images; the last is held out."""
    path = tmp_path_factory.mktemp("images")
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 24), np.uint8)
        Image.fromarray(pixels).save(path / f"image{index}.png")
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    config = script.TrainDenoiser(
        dataset="folder", data_dir=folder, workdir=tmp_path_factory.mktemp("work") / "run", **SHORT
    )
    result = fit(config, Console(quiet=True), script.setup)
    return config, result


@pytest.mark.slow
def test_a_run_leaves_what_runs_leave(run):
    config, result = run
    assert result["steps"] == 4
    assert result["num_params"] == 556_032
    assert "test_accuracy" not in result
    records = [json.loads(line) for line in (config.run_directory / "metrics.jsonl").read_text().splitlines()]
    losses = [record["test_loss"] for record in records if record["kind"] == "epoch"]
    assert result["best_test_loss"] == min(losses)
    assert result["test_loss"] == losses[-1]
    assert (config.run_directory / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_bits(run, tmp_path):
    config, result = run
    again = script.dataclasses.replace(config, workdir=tmp_path)
    setup = script.setup(again)
    directory = training_loop.RunDirectory(tmp_path, again)
    directory.create(setup.resolved())
    with training_loop.Checkpoints(directory.checkpoint_directory) as checkpoints:
        loop = training_loop.TrainingLoop(setup, directory, checkpoints, Console(quiet=True), 0.0)
        loop.restore()
        loop.train(training_loop.Stop(), until=1)
        loop.save()
    resumed = fit(again, Console(quiet=True), lambda _: setup)
    assert {key: resumed[key] for key in ("train_loss", "test_loss")} == {
        key: result[key] for key in ("train_loss", "test_loss")
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": -1.0}, "sigma must be at least 0 and finite, got -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1601}, r"batch_size must be from 1 to patches \(1600\), got 1601"),
        ({"model": "resnet50"}, "model must be a DnCNN"),
        ({"model": "dncnn17"}, "unknown"),
        ({"dataset": "folder"}, "go together"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        script.TrainDenoiser(**fields)


def test_noise_below_zero_is_refused_at_the_command_line(capsys):
    assert script.main(["apply", "--weights", "none", "--image", "none.png", "--sigma", "-1"]) == 2
    assert "sigma must be at least 0 and finite, got -1.0" in capsys.readouterr().err


def test_unfit_folders_are_refused(folder, tmp_path):
    config = script.TrainDenoiser(dataset="folder", data_dir=folder, patch_size=22, workdir=tmp_path)
    with pytest.raises(DataError, match=r"'image0' of \(20, 24\) pixels is smaller than 22 pixels"):
        script.photographs(config)
    config = script.TrainDenoiser(dataset="folder", data_dir=folder, model="dncnn17_colour", workdir=tmp_path)
    with pytest.raises(DataError, match="no image of 3 channels to train on"):
        script.photographs(config)


@pytest.mark.slow
def test_files_are_denoised_whatever_their_channels(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, _ = run
    weights = ["--weights", str(config.run_directory)]
    colour = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    output = tmp_path / "out.png"
    apply = ["apply", *weights, "--image", str(tmp_path / "colour.png"), "--output", str(output)]
    assert script.main(apply) == 2
    assert "takes images of 1 channels, got shape (20, 30, 3); make the image grey" in capsys.readouterr().err
    assert script.main([*apply, "--each-channel"]) == 0
    with Image.open(output) as image:
        assert image.mode == "RGB"
        assert image.size == (30, 20)
    assert script.main(["apply", *weights, "--image", str(folder / "image1.png")]) == 0
    # Not beside the image, where the next run would learn from it.
    with Image.open("outputs/denoise/image1-denoised.png") as image:
        assert image.mode == "L"
        assert image.size == (24, 21)


@pytest.mark.pretrained
def test_from_training_to_the_table_of_filters(folder, tmp_path, capsys):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SHORT.items()]
    command = ["train", "--dataset", "folder", "--data-dir", str(folder), "--workdir", str(tmp_path / "run"), *flags]
    assert script.main(command) == 0
    found = json.loads((tmp_path / "run" / "denoising.json").read_text())
    assert list(found) == ["15", "25", "50"]
    methods = {"noisy", "DnCNN", "Gaussian", "median", "non-local means", "wavelet"}
    assert all(set(rows) == methods for rows in found.values())
    # Noise of 25 grey levels is 20.2 dB, a little more once it is clipped.
    assert 20 < found["25"]["noisy"]["psnr"] < 22
    assert (tmp_path / "run" / "image4.png").exists()
    assert script.main(command) == 0
    assert "The run is complete" in capsys.readouterr().out
