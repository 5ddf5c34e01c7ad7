"""What a run shows of its epochs, runs that are made longer, and runs that go on under other circumstances."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from cnnjax.data import DataError, transforms
from cnnjax.runs import WorkdirError
from cnnjax.training import Checkpoints, TrainConfig, fit, journal
from cnnjax.training.best import Best
from cnnjax.visualize.measures import measure_text


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    draw = np.random.default_rng(0)
    arrays = {f"{split}_images": draw.integers(0, 256, (size, 4, 4, 1), np.uint8) for split, size in SIZES.items()}
    labels = {f"{split}_labels": np.arange(size) % 3 for split, size in SIZES.items()}
    np.savez(path, **arrays, **labels)
    return path


SIZES = {"train": 20, "test": 9}


@pytest.fixture
def config(data, tmp_path):
    return TrainConfig(
        dataset="npz",
        data_dir=data,
        workdir=tmp_path / "run",
        model="mlp",
        model_fields=("features=[3]",),
        image_size=4,
        augment=(),
        batch_size=8,
        epochs=3,
        schedule="constant",
        parallel="single",
        measure="loss",
    )


def run(config):
    text = io.StringIO()
    result = fit(config, Console(file=text, width=200))
    return result, text.getvalue()


def final(config):
    with Checkpoints(config.run_directory / "checkpoints") as checkpoints:
        return checkpoints.read(checkpoints.steps[-1])[0]


def test_a_line_per_epoch_and_what_is_trained(config):
    result, text = run(config)
    lines = text.splitlines()
    assert any(line.startswith("8 steps of 8 images of 4x4x1, 2.5 steps per epoch; 1 ") for line in lines)
    shown = [line for line in lines if line.startswith("epoch ") and "; test " in line]
    assert [line.partition(":")[0] for line in shown] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    loss, accuracy = measure_text("loss", result["test_loss"]), measure_text("accuracy", result["test_accuracy"])
    assert f"; test loss {loss}, accuracy {accuracy}; best loss {result['best_test_loss']:.4f} in epoch " in shown[2]


@pytest.mark.slow
def test_a_run_can_be_made_longer_and_is_the_same_as_if_it_had_been_from_the_start(config, tmp_path):
    """Also where it ended in the middle of an epoch."""
    whole = dataclasses.replace(config, workdir=tmp_path / "whole")
    run(whole)
    shorter, _ = run(dataclasses.replace(config, epochs=1.5))
    assert shorter["steps"] == 4
    result, text = run(config)
    assert "The run is made longer, to 3 epochs" in text
    assert f"Going on from step {shorter['steps']} of 8" in text
    for path, leaf in final(whole).items():
        np.testing.assert_array_equal(leaf, final(config)[path], err_msg=path)
    saved = json.loads((config.run_directory / "config.json").read_text())
    assert (saved["config"]["epochs"], saved["resolved"]["steps"]) == (3, 8)
    assert json.loads((config.run_directory / "result.json").read_text()) == result
    assert run(config)[1].startswith("The run is complete")
    with pytest.raises(WorkdirError, match="epochs: 3 there, 2 now\nepochs can grow, and not shrink"):
        run(dataclasses.replace(config, epochs=2))
    with pytest.raises(WorkdirError, match="(?s)epochs: 3 there, 4 now.*seed: 0 there, 1 now.*give the same flags"):
        run(dataclasses.replace(config, epochs=4, seed=1))


def test_what_cannot_be_made_longer_names_the_way(config):
    config = dataclasses.replace(config, schedule="cosine", epochs=0.4)
    run(config)
    expected = (
        f"differs from its first step on: start it in another --workdir, with --weights {config.workdir} to begin"
    )
    with pytest.raises(WorkdirError, match=expected):
        run(dataclasses.replace(config, epochs=0.8))


def test_curves_are_those_of_all_epochs_whatever_ends_a_run(config, monkeypatch):
    save = Checkpoints.save

    def failing(self, step, *args, **kwargs):
        if step > 3:
            raise KeyboardInterrupt
        save(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", failing)
    drawn = []
    monkeypatch.setattr(journal, "plot_curves", lambda records, path, *rest: drawn.append((len(records), rest[1])))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    (count, rates) = drawn.pop()
    assert count == 2
    assert rates == [(step, pytest.approx(2e-3)) for step in range(1, 6)]


def test_curves_are_drawn_after_each_epoch_that_takes_long_enough(config, monkeypatch):
    drawn = []
    monkeypatch.setattr(journal, "plot_curves", lambda records, *rest: drawn.append(len(records)))
    monkeypatch.setattr(journal, "FIRST_PICTURE", 0.0)
    monkeypatch.setattr(journal, "TIMES_LONGER", 0.0)
    run(config)
    assert drawn == [1, 2, 3, 3]
    # Where all that is left to do is to end the run.
    (config.run_directory / "result.json").unlink()
    run(config)
    assert drawn == [1, 2, 3, 3, 3]


def test_the_best_is_of_any_measure():
    for measure, values, step in (("loss", (3.0, 1.0, 2.0), 20), ("foreground_iou", (0.3, 0.1, 0.2), 10)):
        best = Best(measure)
        for number, value in enumerate(values, 1):
            best.see(value, 10 * number, number)
        assert (best.step, best.epochs_since) == (step, 3 - step // 10)
        again = Best(measure)
        again.set(best.to_json())
        assert again == best


def test_measures_are_written_in_their_units():
    record = {"test_loss": 0.5, "test_mae": 12.25, "train_loss": 0.25, "train_mae": 9.0}
    line = journal.epoch_line(record, Best("loss", 3, 0.5, 1), "2/4", 1.5)
    assert (
        line
        == "epoch 2/4: train loss 0.2500, mae 9.0000; test loss 0.5000, mae 12.2; best loss 0.5000 in epoch 1; 1.5 s"
    )
    assert measure_text("test_foreground_iou", 0.5) == "50.00 %"
    assert measure_text("psnr", 31.256) == "31.26 dB"


def edit_resolved(config, **changes):
    """Change what a run noted, as if it had begun under other circumstances."""
    file = config.run_directory / "config.json"
    saved = json.loads(file.read_text())
    saved["resolved"] |= changes
    file.write_text(json.dumps(saved))
    (config.run_directory / "result.json").unlink()


@pytest.mark.slow
def test_a_run_goes_on_with_its_resizer_and_names_the_flag(config):
    config = dataclasses.replace(config, image_size=5, epochs=0.4)
    run(config)
    saved = json.loads((config.run_directory / "config.json").read_text())["resolved"]["resizer"]
    edit_resolved(config, resizer="another-resizer 4.0")
    expected = f"(?s)resizer: 'another-resizer 4.0' there, '{saved}' now.*the --resizer and"
    with pytest.raises(WorkdirError, match=expected):
        run(config)
    file = config.run_directory / "config.json"
    file.write_text(file.read_text().replace("another-resizer 4.0", "pillow 1.0"))
    _, text = run(dataclasses.replace(config, resizer="pillow"))
    assert "resizer: 'pillow 1.0' there, 'pillow " in text
    assert "images may differ by rounding" in text


@pytest.mark.slow
def test_images_that_need_no_resizing_care_for_no_resizer(config):
    config = dataclasses.replace(config, epochs=0.4)
    run(config)
    assert "resizer" not in json.loads((config.run_directory / "config.json").read_text())["resolved"]
    mean = json.loads((config.run_directory / "config.json").read_text())["resolved"]["mean"][0]
    # As older versions noted it, and on a machine that rounds otherwise.
    edit_resolved(config, resizer="another-resizer 4.0", mean=[float(np.nextafter(mean, 1))])
    run(config)


def test_a_resizer_that_is_not_installed_is_refused(config, monkeypatch):
    monkeypatch.setattr(transforms, "cykooz_resizer", None)
    with pytest.raises(DataError, match="resizer cykooz needs the package cykooz-resizer"):
        run(dataclasses.replace(config, resizer="cykooz"))


def test_settings_of_jax_that_decide_over_draws_are_those_of_the_whole_run(config):
    config = dataclasses.replace(config, epochs=0.4)
    run(config)
    edit_resolved(config, jax_enable_x64=True)
    with pytest.raises(WorkdirError, match="(?s)jax_enable_x64: True there, False now.*JAX's settings"):
        run(config)
