"""Several runs in one picture and one table."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

SPEC = importlib.util.spec_from_file_location("compare", Path(__file__).parents[2] / "experiments" / "compare.py")
compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare)


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes what a run leaves, of its test measures after each epoch."""

    def make(name, measure, values, result=None, **flags):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"config": {"model": "net", "dataset": "set", **flags}}))
        records = [
            {"kind": "epoch", "step": 5 * number, "epoch": number, "test_loss": 1 / number, "train_loss": 0.5}
            | {f"test_{measure}": value, "seconds": 2.0}
            for number, value in enumerate(values, 1)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(lines + '{"kind": "tra')
        if result is not None:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    return make


def test_a_picture_and_a_table_of_two_runs(make_run, tmp_path, capsys):
    one = make_run("a/run", "accuracy", [0.25, 0.75, 0.5], {"num_params": 1234, "images_per_second": 10.0})
    two = make_run("b/run", "accuracy", [0.125])
    assert compare.main([str(one), str(two), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    with (tmp_path / "out" / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["run"], second["run"]) == ("a/run", "b/run")
    assert (first["last test_accuracy"], first["best test_accuracy"]) == ("0.5", "0.75")
    assert (first["best test_loss"], first["complete"], second["complete"]) == (str(1 / 3), "yes", "no")
    assert (first["parameters"], second["parameters"]) == ("1234", "")
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.size[0] == 1320
    assert "curves.png" in text


def test_runs_that_differ_in_the_seed_alone_have_a_mean(make_run, tmp_path, capsys):
    done = {"images_per_second": 1.0}
    runs = [
        make_run(f"seed{seed}", "tta_accuracy", [0.9, value], done, seed=seed) for seed, value in ((0, 0.94), (1, 0.96))
    ]
    for folder in runs:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]]
        lines[-1]["test_accuracy"] = 0.5
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs.append(make_run("unfinished", "accuracy", [0.5], seed=2))
    runs.append(make_run("other", "accuracy", [0.5], done, seed=2, epochs=3))
    assert compare.main([*map(str, runs), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "seed0, seed1 differ in the seed alone: test loss 0.5000 ± 0.0000, " in text
    assert "test accuracy 50.00 % ± 0.00 %, test tta accuracy 95.00 % ± 1.41 %\n" in text
    assert text.count("differ in the seed alone") == 1


@pytest.mark.parametrize(
    ("measure", "values", "best"),
    [("psnr", [20.0, 30.0], 30.0), ("mae", [4.0, 5.0], 4.0), ("foreground_iou", [0.5], 0.5)],
)
def test_runs_that_are_no_classifiers_have_their_measure(make_run, measure, values, best):
    found = compare.row(compare.read(make_run("run", measure, values)))
    assert found[f"best test_{measure}"] == best
    assert found["best test_loss"] == 1 / len(values)


def test_what_is_no_run_or_has_no_test_is_one_line(make_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert compare.main([str(tmp_path / "empty")]) == 2
    assert "is not a run: it has no config.json" in capsys.readouterr().err
    assert compare.main([str(make_run("new", "accuracy", []))]) == 2
    assert "was not tested yet" in capsys.readouterr().err
    run = str(make_run("run", "accuracy", [0.5]))
    assert compare.main([run, run]) == 2
    assert "each run can be given once" in capsys.readouterr().err
