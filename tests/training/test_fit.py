"""Whole runs: what they leave behind, and that stopping them changes nothing."""

import dataclasses
import errno
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from families import first_plain
from PIL import Image
from rich.console import Console

from cnnjax import writing
from cnnjax.data import DataError
from cnnjax.runs import WorkdirError
from cnnjax.training import CheckpointError, Checkpoints, ConfigError, TrainConfig, fit

SCRIPT = Path(__file__).parents[2] / "experiments" / "train.py"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def small_run(data_dir, workdir):
    """Return the config of a run of 45 steps in two epochs, the second of which ends in the middle of a pass."""
    return TrainConfig(
        data_dir=data_dir,
        workdir=workdir,
        train_split="train[:179]",
        test_split="test[:100]",
        batch_size=8,
        epochs=2,
        parallel="single",
        log_steps=10,
        checkpoint_steps=7,
    )


@pytest.fixture
def config(data_dir, tmp_path):
    return small_run(data_dir, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    """Return the folder, the result and the text of a run that nothing stopped."""
    config = small_run(data_dir, tmp_path_factory.mktemp("whole") / "run")
    result, text = run(config)
    return config, result, text


def run(config):
    text = io.StringIO()
    result = fit(config, Console(file=text, width=200))
    return result, text.getvalue()


def records(workdir):
    """Return the lines of the metrics file, without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def arrays(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.read(checkpoints.steps[-1])[0]


def assert_same_run(one, other):
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
    assert records(one) == records(other)
    results = [json.loads((workdir / "result.json").read_text()) for workdir in (one, other)]
    clock = {"seconds", "images_per_second"}
    assert {k: v for k, v in results[0].items() if k not in clock} == {
        k: v for k, v in results[1].items() if k not in clock
    }


@pytest.mark.users
def test_a_run_leaves_what_it_promises(whole):
    config, result, text = whole
    assert {
        "steps",
        "epochs",
        "train_loss",
        "test_loss",
        "test_accuracy",
        "images_per_second",
        "seconds",
    } <= result.keys()
    assert result["steps"] == 45
    assert result["test_accuracy"] <= result["test_top5_accuracy"] <= 1
    assert result["train_gradient_norm"] > 0
    assert result["test_accuracy"] > 0.5
    assert "test accuracy" in text
    assert str(config.workdir) in text
    saved = json.loads((config.workdir / "config.json").read_text())
    assert saved["config"]["seed"] == 0
    assert saved["versions"]["jax"] == jax.__version__
    assert saved["resolved"]["image_size"] == 28
    assert saved["resolved"]["label_names"] == list("0123456789")
    lines = records(config.workdir)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 10),
        ("train", 20),
        ("epoch", 23),
        ("train", 30),
        ("train", 40),
        ("epoch", 45),
    ]
    with Image.open(config.workdir / "curves.png") as picture:
        assert picture.size == (1620, 432)
    # Again: nothing is trained.
    before = (config.workdir / "result.json").read_text()
    again, text = run(config)
    assert again == json.loads(before)
    assert "The run is complete" in text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole, config, tmp_path):
    run(config)
    assert_same_run(whole[0].workdir, config.workdir)
    changed = dataclasses.replace(config, workdir=tmp_path / "changed", seed=1)
    run(changed)
    assert records(changed.workdir) != records(config.workdir)


def stop_after(config, monkeypatch, steps, error):
    """Raise ``error`` in place of the save after ``steps`` steps."""
    save = Checkpoints.save

    def failing(self, step, *args, **kwargs):
        if step >= steps:
            raise error
        save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", failing)
        with pytest.raises(type(error)):
            run(config)


@pytest.mark.parametrize("steps", [14, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (21, 23, 28))])
def test_a_run_that_died_goes_on_to_the_same_bits(whole, config, monkeypatch, steps):
    stop_after(config, monkeypatch, steps, KeyboardInterrupt())
    assert not (config.workdir / "result.json").exists()
    _, text = run(config)
    assert "Going on from step" in text
    assert_same_run(whole[0].workdir, config.workdir)


def command(data_dir, workdir):
    """Return the real command; its epochs are longer than what it needs to be stopped."""
    flags = {
        "data-dir": data_dir,
        "workdir": workdir,
        "train-split": "train[:320]",
        "test-split": "test[:100]",
        "epochs": 3,
        "batch-size": 8,
        "parallel": "single",
        "log-steps": 5,
        "checkpoint-steps": 25,
    }
    return [sys.executable, str(SCRIPT), *(str(part) for key, value in flags.items() for part in (f"--{key}", value))]


def launch(command):
    """Start a command on one device."""
    environment = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(command):
    """Run a command to its end and return what it printed; it must succeed and warn of nothing."""
    with launch(command) as process:
        text, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    return text


@pytest.mark.slow
def test_a_process_that_is_stopped_by_signals_goes_on_to_the_same_bits(data_dir, tmp_path):
    """Stop the real command in two ways, each time after some more steps; see test_kills.py for the third."""
    stopped = tmp_path / "stopped"
    metrics = stopped / "metrics.jsonl"
    for number, lines in ((signal.SIGTERM, 4), (signal.SIGINT, 10)):
        with launch(command(data_dir, stopped)) as process:
            deadline = time.monotonic() + 120
            while not (metrics.exists() and len(metrics.read_text().splitlines()) >= lines):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number, errors
        assert "the same command again goes on from here" in errors
        assert not (stopped / "result.json").exists()
    assert "Going on from step" in finish(command(data_dir, stopped))
    whole = tmp_path / "whole"
    assert "test accuracy" in finish(command(data_dir, whole))
    assert_same_run(stopped, whole)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(whole, config, monkeypatch):
    stop_after(config, monkeypatch, 21, KeyboardInterrupt())
    for file in (config.workdir / "checkpoints" / "14" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    _, text = run(config)
    assert "checkpoint 14 in" in text
    assert "Going on from step 7" in text
    assert_same_run(whole[0].workdir, config.workdir)


@pytest.mark.slow
def test_a_write_that_fails_is_told_and_tried_again_and_the_run_goes_on(whole, config, monkeypatch):
    save, failing = Checkpoints.save, {14, 21, 23}

    def full(self, step, *args, **kwargs):
        if step in failing:
            raise CheckpointError("no space left on the disk")
        save(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", full)
    _, text = run(config)
    assert text.count("no space left on the disk; will be tried again with the next checkpoint") == 2 * len(failing)
    assert_same_run(whole[0].workdir, config.workdir)


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_cannot_be_written_fails_and_can_be_ended_later(whole, config, monkeypatch):
    stop_after(config, monkeypatch, 28, CheckpointError("no space left on the disk"))
    assert not (config.workdir / "result.json").exists()
    run(config)
    assert_same_run(whole[0].workdir, config.workdir)


@pytest.mark.slow
def test_metrics_that_cannot_be_written_are_written_later_and_once(whole, config, monkeypatch):
    """The disk takes half of a line, and nothing of the next."""
    fsync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if 4 <= len(calls) <= 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(writing.os, "fsync", full)
    _, text = run(config)
    assert "metrics.jsonl (No space left on device); will be tried again" in text.replace("\n", "")
    assert_same_run(whole[0].workdir, config.workdir)


def test_another_config_is_refused_with_the_difference(whole, tmp_path):
    config = whole[0]
    expected = r"(?s)another config:\n  batch_size: 8 there, 32 now\n  seed: 0 there, 1 now"
    with pytest.raises(WorkdirError, match=expected):
        run(dataclasses.replace(config, batch_size=32, seed=1))
    moved = tmp_path / "moved"
    shutil.copytree(config.workdir, moved)
    assert run(dataclasses.replace(config, workdir=moved, parallel="pmap"))[1].startswith("The run is complete")


def edit_resolved(config, **changes):
    file = config.run_directory / "config.json"
    saved = json.loads(file.read_text())
    saved["resolved"] |= changes
    file.write_text(json.dumps(saved))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    first_plain(
        [
            ("mean", [0.5], r"mean: \[0.5\] there, \[0.30"),
            ("interpolation", "bicubic", "interpolation: 'bicubic' there, 'bilinear' now"),
            ("image_size", 32, "image_size: 32 there, 28 now"),
            ("dataset_version", "0.9", "dataset_version: '0.9' there"),
            ("skipped_images", [["a.png", "damaged"]], r"skipped_images: \[\['a.png', 'damaged'\]\] there, \[\] now"),
        ]
    ),
)
def test_flags_that_mean_other_images_now_are_refused(config, monkeypatch, name, value, expected):
    stop_after(config, monkeypatch, 14, KeyboardInterrupt())
    edit_resolved(config, **{name: value})
    with pytest.raises(WorkdirError, match=f"(?s)meant something else there:\n  {expected}.*--memory-budget-mib"):
        run(config)


@pytest.mark.slow
def test_eight_devices_train_like_one(config, tmp_path):
    one, _ = run(config)
    eight, _ = run(dataclasses.replace(config, workdir=tmp_path / "eight", parallel="pmap"))
    assert eight["devices"].startswith("8 ")
    for key in ("train_loss", "test_loss"):
        np.testing.assert_allclose(one[key], eight[key], rtol=1e-3)


@pytest.mark.slow
def test_moving_averages_and_resuming_go_together(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, ema_decay=0.9)
    whole = dataclasses.replace(config, workdir=tmp_path / "whole")
    run(whole)
    stop_after(config, monkeypatch, 28, KeyboardInterrupt())
    run(config)
    assert_same_run(whole.workdir, config.workdir)
    assert any(path.startswith("ema/params/") for path in arrays(whole.workdir))
    epochs = [line for line in records(whole.workdir) if line["kind"] == "epoch"]
    assert all(line["test_loss"] != line["test_raw_loss"] for line in epochs)
    assert all(0 <= line["test_raw_accuracy"] <= 1 for line in epochs)


# Programs of other shapes round alike as users compile them, not as they are compiled quickly.
@pytest.mark.users(only=True)
def test_grouped_steps_and_examples_on_the_device_change_no_bit(whole, config, monkeypatch):
    """Even when the run is stopped and goes on the other way."""
    grouped = dataclasses.replace(config, steps_per_dispatch=3, data_on_device="yes")
    stop_after(grouped, monkeypatch, 28, KeyboardInterrupt())
    run(dataclasses.replace(grouped, steps_per_dispatch=1))
    assert_same_run(whole[0].workdir, config.workdir)


@pytest.mark.slow
def test_a_run_stops_early_at_the_same_epoch_whether_or_not_it_was_interrupted(config, tmp_path, monkeypatch):
    """The learning rate is so high that the test loss gets no better soon."""
    changes = {"optimizer": "sgd", "learning_rate": 3.0, "schedule": "constant", "clip_norm": 1.0}
    config = dataclasses.replace(config, epochs=8, patience=2, measure="loss", per_class=True, **changes)
    whole = dataclasses.replace(config, workdir=tmp_path / "whole")
    result, _ = run(whole)
    epochs = [line for line in records(whole.workdir) if line["kind"] == "epoch"]
    losses = [line["test_loss"] for line in epochs]
    assert result["stopped_early"]
    assert len(epochs) < 8
    assert int(np.argmin(losses)) == len(losses) - 3
    assert result["best_test_loss"] == min(losses)
    assert len(result["test_class_accuracy"]) == 10
    # Between the best epoch and the end.
    stop_after(config, monkeypatch, result["steps"] - 10, KeyboardInterrupt())
    run(config)
    assert_same_run(whole.workdir, config.workdir)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"batch_size": 12, "parallel": "pmap"}, ConfigError, "divisible by the 8 devices, got 12"),
        ({"batch_size": 24, "parallel": "pmap", "accumulate": 2}, ConfigError, "by 16, accumulate times the 8 dev"),
        ({"aux_weight": 0.3}, ConfigError, "aux_weight is 0.3, but lenet5 has no auxiliary heads"),
        ({"model_fields": ("depth=3",)}, ConfigError, "depth"),
        ({"zero_init_residual": True}, ConfigError, "zero_init_residual"),
        ({"batch_size": 2000}, ConfigError, "at most 179, the number of training images of digits, got 2000"),
        ({"image_size": 8}, ConfigError, "lenet5 on digits: images of 8x8 pixels are too small.*12x12"),
        ({"dataset": "digit"}, DataError, "unknown data set 'digit'; did you mean digits"),
        ({"dataset": "cifar10"}, DataError, "not prepared"),
        ({"sync_batch_norm": True, "parallel": "pmap"}, ConfigError, "lenet5 has no batch norm to synchronise"),
        ({"model": "dncnn17_grey"}, ConfigError, "dncnn17_grey is a network for restoration"),
        ({"data_dir": Path("/nowhere")}, DataError, "'/nowhere' is not a folder"),
        ({"warmup_epochs": 1.99, "batch_size": 179}, ConfigError, "warm-up of 2 steps leaves nothing of a run of 2"),
    ],
)
def test_runs_that_cannot_be_are_refused_before_anything_is_made(config, changes, error, expected):
    with pytest.raises(error, match=expected):
        run(dataclasses.replace(config, **changes))
    assert not config.workdir.exists()


def test_a_workdir_that_cannot_be_made_is_one_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be made"):
        run(dataclasses.replace(config, workdir=tmp_path / "file" / "run"))


@pytest.mark.slow
def test_runs_in_other_threads_leave_signals_alone(config):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(dataclasses.replace(config, epochs=0.5))[0]))
    thread.start()
    thread.join()
    assert results[0]["steps"] == 12


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model", "lenet6"], "unknown model 'lenet6'; did you mean lenet5"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--dataset", "digit"], "error: unknown data set 'digit'; did you mean digits"),
        (["--data-dir", "nowhere"], "error: data directory 'nowhere' is not a folder"),
    ],
)
def test_errors_of_the_command_are_one_message_and_an_exit_code(flags, expected, tmp_path, monkeypatch, capsys):
    # This process has met no others, and is too far on to look for them.
    alone = ["--num-processes", "1", "--workdir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *flags, *alone])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    text, errors = capsys.readouterr()
    assert text == ""
    # The command-line library wraps its messages in a box.
    assert expected in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
