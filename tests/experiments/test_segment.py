"""experiments/segment.py: from training on composed scenes to a segmented file."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import cnnjax
from cnnjax.data import DataError, ImageDataset
from cnnjax.data.source import ArraySplit
from cnnjax.training import ConfigError, fit

SPEC = importlib.util.spec_from_file_location("segment", Path(__file__).parents[2] / "experiments" / "segment.py")
script = importlib.util.module_from_spec(SPEC)
# Dataclasses look their module up by name.
sys.modules[SPEC.name] = script
SPEC.loader.exec_module(script)


@pytest.fixture(scope="module")
def bars():
    """Return a data set of bars: upright ones are of kind 0, lying ones of kind 1."""
    things = np.zeros((2, 8, 8, 1), np.uint8)
    things[0, :, 3:6] = things[1, 3:6] = 255
    split = ArraySplit(things, np.array([0, 1], np.int32))
    return ImageDataset("bars", "1.0.0", split, split, ("upright", "lying"), (8, 8, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of ten plain photographs, half of them grey; the fifth and the tenth are held out."""
    path = tmp_path_factory.mktemp("photographs")
    for index in range(10):
        grey = 20 * index
        colour = grey if index % 2 else (grey, grey, 90)
        Image.new("L" if index % 2 else "RGB", (40, 40), colour).save(path / f"{index}.png")
    return path


def command(folder, workdir, **fields):
    short = {
        "epochs": 2,
        "scenes": 32,
        "test_scenes": 10,
        "batch_size": 8,
        "size": 16,
        "features": "4 8",
        "parallel": "single",
        "learning_rate": 0.01,
        "labels": "kind",
    } | fields
    flags = [word for key, value in short.items() for word in (f"--{key.replace('_', '-')}", *str(value).split())]
    return ["train", "--photographs", str(folder), "--workdir", str(workdir), *flags]


@pytest.fixture(scope="module")
def run(bars, folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("work") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "load_dataset", lambda name, data_dir: bars)
        assert script.main(command(folder, workdir)) == 0
    return workdir


@pytest.mark.slow
def test_a_run_leaves_what_runs_leave_and_its_scores(run):
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 8
    found = json.loads((run / "segmentation.json").read_text())
    assert found["label_names"] == ["background", "upright", "lying"]
    # The trained network on stored scenes says what the run's evaluation said.
    for name in ("iou", "dice", "foreground_iou", "foreground_dice", "pixel_accuracy"):
        assert found[name] == pytest.approx(result[f"test_{name}"], abs=1e-6)
    assert np.sum(found["confusion"]) == 10 * 16 * 16
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["train_loss"] for record in records if record["kind"] == "epoch"]
    assert losses[1] < losses[0]
    with Image.open(run / "overlays.png") as picture:
        assert np.asarray(picture.convert("HSV"))[..., 1].max() > 100, "no label is drawn in colour"


@pytest.mark.slow
def test_files_of_any_size_and_kind_are_segmented(run, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size, mode in (((17, 23), "L"), ((16, 16), "L"), ((1, 5), "RGB")):
        file, mask = tmp_path / "image.png", tmp_path / "mask.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode).save(file)
        arguments = ["apply", "--weights", str(run), "--image", str(file), "--mask", str(mask)]
        assert script.main(arguments) == 0
        printed = capsys.readouterr().out
        assert ("made grey" in printed) == (mode == "RGB")
        with Image.open("outputs/segment/image-segmented.png") as picture, Image.open(mask) as labels:
            assert picture.size == labels.size == size
            assert np.asarray(labels).max() <= 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "mask.png", "outputs"]


@pytest.mark.slow
def test_padding_does_not_change_what_is_far_from_it(run):
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), np.uint8)
    outputs = jax.jit(cnnjax.load_run(run, "last").outputs)
    whole, part = outputs(images), outputs(images[:, :31, :29])
    assert part.shape == (1, 31, 29, 3)
    # Two levels of two 3x3 convolutions see 16 pixels at most.
    np.testing.assert_allclose(part[:, :13, :13], whole[:, :13, :13], atol=1e-5)


@pytest.mark.slow
def test_other_images_are_refused(run, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"takes images of 1 channels, got shape \(1, 4, 4, 3\)"):
        cnnjax.load_run(run).outputs(np.zeros((1, 4, 4, 3), np.uint8))
    assert script.main(["apply", "--weights", str(tmp_path), "--image", "none.png"]) == 2
    assert "is not a run: it has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "unet"}, "model must be unet_same, which labels every pixel, got unet"),
        ({"size": 63}, "size must be a multiple of 4 with 3 levels, such as 64, got 63"),
        ({"features": (8,)}, "features must be 2 levels or more"),
        ({"batch_size": 3000}, "scenes must be at least batch_size"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        script.TrainSegmenter(**fields)


def test_colours_need_photographs_in_colour(bars, folder, monkeypatch):
    monkeypatch.setattr(script, "load_dataset", lambda name, data_dir: bars)
    setup = script.setup(script.TrainSegmenter(photographs=folder, colour=True, size=16, features=(4, 8), scenes=16))
    assert setup.image_shape == (16, 16, 3)
    batch = next(setup.pipeline.train_batches(2, 1, 0))
    assert batch["image"].shape == (2, 16, 16, 3)
    coloured = ImageDataset("c", "1.0.0", bars.train, bars.test, bars.label_names, (8, 8, 3))
    monkeypatch.setattr(script, "load_dataset", lambda name, data_dir: coloured)
    with pytest.raises(DataError, match=r"images of shape \(8, 8, 3\); needed are grey ones"):
        script.setup(script.TrainSegmenter(photographs=folder))


@pytest.mark.exhaustive
@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "both"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_loss_and_type_trains(bars, folder, tmp_path, monkeypatch, loss, dtype):
    monkeypatch.setattr(script, "load_dataset", lambda name, data_dir: bars)
    config = script.TrainSegmenter(
        photographs=folder, workdir=tmp_path, size=16, features=(8, 16), scenes=160, test_scenes=20, epochs=20,
        batch_size=8, learning_rate=0.005, loss=loss, dtype=dtype, parallel="single",
    )  # fmt: skip
    assert fit(config, Console(quiet=True), script.setup)["test_foreground_iou"] > 0.5


@pytest.mark.pretrained
def test_photographs_and_digits_need_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    train, test, names = script.scenes(script.TrainSegmenter(data_dir=tmp_path))
    assert (len(train.things), len(test.things)) == (1438, 359)
    assert (len(train.photographs), len(test.photographs)) == (10, 4)
    assert names == ("background", "foreground")
