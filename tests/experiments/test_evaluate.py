"""What a run is worth, looked at again: `experiments/evaluate.py` and `experiments/predict.py`."""

import argparse
import importlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from cnnjax import load_run
from cnnjax.data import load_dataset
from cnnjax.data.load import load_to_test
from cnnjax.pretrained import imagenet_classes

RUN = Path(__file__).parents[1] / "pretrained" / "data" / "run"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """Let the scripts be imported by name."""
    folder = str(Path(__file__).parents[2] / "experiments")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.slow
def test_a_run_is_evaluated_to_the_numbers_it_noted(data_dir, tmp_path, capsys):
    command = ["--workdir", str(RUN), "--data-dir", str(data_dir), "--output", str(tmp_path), "--batch-size", "100"]
    assert importlib.import_module("evaluate").main(command) == 0
    found = json.loads((tmp_path / "evaluation-3.json").read_text())
    noted = json.loads((RUN / "result.json").read_text())
    assert found["test_accuracy"] == pytest.approx(noted["test_accuracy"])
    assert found["test_loss"] == pytest.approx(noted["test_loss"], rel=1e-5)
    matrix = np.array(found["confusion"])
    assert matrix.sum() == found["test_images"] == 359
    assert np.trace(matrix) / 359 == pytest.approx(noted["test_accuracy"])
    text = capsys.readouterr().out
    assert "lenet5 on digits after step 3" in text
    assert "test accuracy: 23.12 %" in text
    assert "most often taken for" in text
    with Image.open(tmp_path / "confusion-3.png") as picture:
        assert picture.size[0] > 500


def test_the_table_and_the_numbers_are_their_definitions():
    evaluate = importlib.import_module("evaluate")
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    numbers, matrix = evaluate.measure(np.log(p), np.array([0, 1, 1, 2]))
    assert numbers["test_accuracy"] == 0.75
    assert numbers["test_loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.6]).mean())
    assert matrix.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    rows = [list(column.cells) for column in evaluate.table(matrix, ["a", "b", "c"]).columns]
    assert rows[2:] == [["100.00%", "50.00%", "100.00%"], ["50.00%", "100.00%", "100.00%"], ["", "a (1)", ""]]


def test_pictures_are_predicted_by_a_run_as_it_would_have_tested_them(data_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, _ = load_dataset("digits", data_dir).test.read(np.arange(2))
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    predict = importlib.import_module("predict")
    assert predict.main([*map(str, files), "--workdir", str(RUN), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(":")] == [f"{file}:" for file in files]
    shares = [float(line.split("%")[0]) for line in lines if "%" in line]
    assert len(shares) == 6
    assert shares[:3] == sorted(shares[:3], reverse=True)
    assert lines[-1] == "The picture is outputs/predict/0-predicted.png"
    # Nothing is beside the images, where the next run might learn from it.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "outputs"]
    with Image.open("outputs/predict/0-predicted.png") as picture:
        assert picture.size == (1080, 576)


def test_views_of_pictures_are_averaged(data_dir, tmp_path, capsys, monkeypatch):
    """Outputs before softmax, of the picture and of its mirror image."""
    monkeypatch.chdir(tmp_path)
    image = load_dataset("digits", data_dir).test.read(np.arange(1))[0][0]
    Image.fromarray(image[..., 0]).save("digit.png")
    flags = ["--workdir", str(RUN), "--top", "1", "--test-time-augmentation", "mirror"]
    assert importlib.import_module("predict").main(["digit.png", *flags]) == 0
    network = load_run(RUN)
    logits = network.logits(np.stack([network.preprocessing.prepare(view) for view in (image, image[:, ::-1])])).mean(0)
    expected = np.exp(logits - np.logaddexp.reduce(logits)).max()
    assert capsys.readouterr().out.startswith(f"{expected:7.2%}  {network.label_names[logits.argmax()]}")


@pytest.mark.slow
def test_a_run_is_evaluated_over_views(data_dir, tmp_path, capsys):
    found = []
    for views in ("none", "mirror-shift"):
        flags = ["--workdir", str(RUN), "--data-dir", str(data_dir), "--output", str(tmp_path / views)]
        assert importlib.import_module("evaluate").main([*flags, "--test-time-augmentation", views]) == 0
        found.append(json.loads((tmp_path / views / "evaluation-3.json").read_text()))
    assert [each["test_time_augmentation"] for each in found] == ["none", "mirror-shift"]
    assert found[0]["test_loss"] != found[1]["test_loss"]
    assert found[1]["test_images"] == 359


@pytest.mark.parametrize(
    ("script", "flags", "code", "expected"),
    [
        ("evaluate", ["--workdir", "nowhere"], 2, "error: nowhere is not a run: it has no config.json"),
        ("evaluate", ["--workdir", str(RUN), "--which", "9"], 2, "has no checkpoint of step 9"),
        ("predict", ["--workdir", str(RUN), "nothing.png"], 2, "No such file or directory: 'nothing.png'"),
        ("predict", ["a.png"], 2, "give --weights, or --workdir"),
        ("predict", ["--model", "lenet5", "a.png"], 2, "--model needs --weights, and most weights say by themselves"),
    ],
)
def test_what_is_not_there_is_one_line(script, flags, code, expected, capsys):
    try:
        found = importlib.import_module(script).main(flags)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert expected in capsys.readouterr().err.replace("\n", "")


@pytest.fixture
def numbers_run(tmp_path):
    """Return the folder of a run whose ten outputs are taken for numbers, and the file of its examples."""
    run = shutil.copytree(RUN, tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
    file = tmp_path / "numbers.npz"
    targets = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    np.savez(file, train_images=images, train_labels=targets, test_images=images, test_labels=targets)
    config = json.loads((run / "config.json").read_text())
    config["config"] |= {"dataset": "npz", "data_dir": str(file), "loss": "mse", "measure": "loss"}
    config["resolved"]["task"] = "regression"
    (run / "config.json").write_text(json.dumps(config))
    return run, images, targets


def test_numbers_are_evaluated_by_their_errors(numbers_run, capsys):
    run, images, targets = numbers_run
    assert importlib.import_module("evaluate").main(["--workdir", str(run)]) == 0
    found = json.loads((run / "evaluation-3.json").read_text())
    errors = np.asarray(load_run(run).outputs(images)) - targets
    assert found["test_images"] == 20
    assert found["test_mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert found["test_mse"] == pytest.approx((errors**2).mean(), rel=1e-4)
    assert found["mae"] == pytest.approx(np.abs(errors).mean(0), rel=1e-4)
    text = capsys.readouterr().out
    assert "mean absolute error" in text
    assert f"test mae: {found['test_mae']:.4f}" in text
    assert not list(run.glob("confusion*"))


@pytest.fixture
def labels_run(numbers_run):
    """Return the same of a run whose ten outputs are taken for labels, of which an image may have several."""
    run, images, targets = numbers_run
    config = json.loads((run / "config.json").read_text())
    config["config"] |= {"dataset": "csv", "data_dir": str(run.parent / "labels.csv")}
    config["config"] |= {"loss": "binary_cross_entropy", "measure": "accuracy"}
    config["resolved"]["task"] = "multilabel"
    (run / "config.json").write_text(json.dumps(config))
    targets = np.maximum(targets, np.roll(targets, 3, 1))
    lines = ["path,label,split"]
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        Image.fromarray(image[..., 0]).save(run.parent / f"{number}.png")
        names = "|".join(str(label) for label in np.flatnonzero(target))
        lines += [f"{number}.png,{names},test"] if number else [f"{number}.png,{names},train"]
    (run.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    return run, images[1:], targets[1:]


def test_labels_are_evaluated_each_by_itself(labels_run, capsys):
    run, images, targets = labels_run
    evaluate = importlib.import_module("evaluate")
    assert evaluate.main(["--workdir", str(run)]) == 0, capsys.readouterr().err
    found = json.loads((run / "evaluation-3.json").read_text())
    logits = np.asarray(load_run(run).outputs(images))
    assert found["test_images"] == 19
    scores = [metrics.average_precision_score(targets[:, label], logits[:, label]) for label in range(10)]
    assert found["average_precision"] == pytest.approx(scores, rel=1e-5)
    assert found["test_mean_average_precision"] == pytest.approx(np.mean(scores), rel=1e-5)
    assert found["recall"] == pytest.approx(metrics.recall_score(targets, logits > 0, average=None, zero_division=0))
    losses = np.log1p(np.exp(logits)) - targets * logits
    assert found["test_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert "test mean average precision: " in capsys.readouterr().out


def test_several_labels_of_pictures_are_predicted(labels_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, images, _ = labels_run
    assert importlib.import_module("predict").main(["1.png", "--workdir", str(run), "--top", "10"]) == 0
    *lines, _ = capsys.readouterr().out.splitlines()
    shares = {line.split()[1]: float(line.split("%")[0]) / 100 for line in lines}
    expected = 1 / (1 + np.exp(-np.asarray(load_run(run).outputs(images[:1]))[0]))
    np.testing.assert_allclose([shares[name] for name in "0123456789"], expected, atol=1e-4)


@pytest.fixture
def folder_run(tmp_path):
    """Return the folder of a run whose data set is said to be a folder, and that of images of two of its classes."""
    run, images = shutil.copytree(RUN, tmp_path / "run"), tmp_path / "images"
    for number, name in enumerate("7773"):
        (images / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(images / name / f"{number}.png")
    config = json.loads((run / "config.json").read_text())
    config["config"] |= {"dataset": "folder", "data_dir": str(tmp_path / "gone")}
    (run / "config.json").write_text(json.dumps(config))
    return run, images


def test_fresh_images_are_all_tested_under_the_runs_classes(folder_run, capsys):
    run, images = folder_run
    assert importlib.import_module("evaluate").main(["--workdir", str(run), "--data-dir", str(images)]) == 0
    found = json.loads((run / "evaluation-3.json").read_text())
    assert np.sum(found["confusion"], 1).tolist() == [0, 0, 0, 1, 0, 0, 0, 3, 0, 0]
    assert found["test_images"] == 4
    (images / "7").rename(images / "seven")
    assert importlib.import_module("evaluate").main(["--workdir", str(run), "--data-dir", str(images)]) == 2
    expected = "has 'seven', which the run does not know: it has 3, seven, and the run was trained on 0, 1, 2, 3,"
    assert expected in capsys.readouterr().err.replace("\n", "")


def test_the_runs_own_images_are_divided_as_they_were(folder_run):
    run, images = folder_run
    for name in "012345689":
        for number in range(2):
            (images / name).mkdir(exist_ok=True)
            Image.new("L", (28, 28), number).save(images / name / f"{number}.png")
    evaluate = importlib.import_module("evaluate")
    given = argparse.Namespace(workdir=run, data_dir=images)
    assert len(evaluate.images_to_test(load_run(run), given).test) == 22
    config = json.loads((run / "config.json").read_text())
    config["resolved"]["dataset_version"] = load_dataset("folder", images).version
    (run / "config.json").write_text(json.dumps(config))
    assert len(evaluate.images_to_test(load_run(run), given).test) == 10


@pytest.mark.parametrize("kind", ["csv", "npz", "splits"])
def test_files_to_test_need_nothing_to_train_on(kind, tmp_path):
    for number in range(2):
        path = tmp_path / "test" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    (tmp_path / "table.csv").write_text("path,label\ntest/a/0.png,a\ntest/a/1.png,a\n")
    np.savez(tmp_path / "arrays.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array(["a", "a"]))
    name, path = {
        "csv": ("csv", tmp_path / "table.csv"),
        "npz": ("npz", tmp_path / "arrays.npz"),
        "splits": ("folder", tmp_path),
    }[kind]
    data = load_to_test(name, path)
    assert (data.label_names, len(data.test)) == (("a",), 2)


def test_numbers_of_pictures_are_predicted(numbers_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, images, _ = numbers_run
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "image.png")
    assert importlib.import_module("predict").main([str(tmp_path / "image.png"), "--workdir", str(run)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    values = [float(line.split()[0]) for line in lines]
    np.testing.assert_allclose(values, load_run(run).outputs(images[:1])[0], rtol=1e-4)
    assert last == "The picture is outputs/predict/image-predicted.png"


@pytest.mark.parametrize("script", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("name", "task", "hint"),
    [
        ("denoise", "restoration", "`python experiments/denoise.py apply --weights {run} --image IMAGE` denoises"),
        ("segment", "segmentation", "`python experiments/segment.py apply --weights {run} --image IMAGE` segments"),
        ("autoencode", "restoration", "`python experiments/autoencode.py` drew what it makes of images in {run}"),
    ],
)
def test_runs_that_map_images_to_images_are_refused_with_what_uses_them(script, name, task, hint, tmp_path, capsys):
    run = tmp_path / "run"
    with zipfile.ZipFile(Path(__file__).parents[1] / "runs" / "data" / f"{name}.zip") as archive:
        archive.extractall(run)
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    images = [str(tmp_path / "image.png")] if script == "predict" else []
    assert importlib.import_module(script).main(["--workdir", str(run), *images]) == 2
    text = capsys.readouterr().err.replace("\n", "")
    assert f"error: {run} was trained for {task}; {hint.format(run=run)}" in text


def test_a_damaged_run_is_not_evaluated(tmp_path, capsys):
    run = shutil.copytree(RUN, tmp_path / "run")
    for file in (run / "checkpoints").rglob("d/*"):
        file.write_bytes(b"")
    assert importlib.import_module("evaluate").main(["--workdir", str(run)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_weights_that_are_no_run_are_tested_on_a_set_that_is_named(data_dir, tmp_path, capsys):
    evaluate = importlib.import_module("evaluate")
    # With its number of classes said, a run is taken for weights like any others.
    weights = ["--weights", str(RUN), "--num-classes", "10", "--output", str(tmp_path)]
    assert evaluate.main(weights) == 2
    assert "names no images to test on: give --dataset" in capsys.readouterr().err.replace("\n", "")
    assert evaluate.main([*weights, "--dataset", "digits", "--data-dir", str(data_dir)]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    noted = json.loads((RUN / "result.json").read_text())
    assert found["test_accuracy"] == pytest.approx(noted["test_accuracy"])
    assert f"lenet5 on digits of {RUN}" in capsys.readouterr().out


def test_imagenet_s_ids_stand_for_its_classes():
    evaluate = importlib.import_module("evaluate")
    ids = tuple(f"n{number:08}" for number in range(999, -1, -1))
    dataset = argparse.Namespace(task="classification", label_names=ids)
    network = argparse.Namespace(task="classification", label_names=imagenet_classes())
    assert evaluate.label_numbers(dataset, network).tolist() == list(range(999, -1, -1))


def test_pictures_are_shown_to_weights_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 30)).save(tmp_path / "image.png")
    printed = []
    for flag in ("--weights", "--workdir"):
        assert importlib.import_module("predict").main(["image.png", flag, str(RUN)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
