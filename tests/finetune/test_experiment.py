"""The script that fine-tunes: its study, a run from weights, and what it refuses."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.training import Checkpoints
from cnnjax.training.loop import TrainingLoop

SCRIPT = Path(__file__).parents[2] / "experiments" / "finetune.py"


@pytest.fixture(autouse=True)
def _optax_promotes():
    """Optax's own bias correction raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("finetune_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(autouse=True)
def _compile_quickly():
    """Programs run for a few steps only."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(script, command):
    """Return the exit code of a command line, whoever refuses it."""
    try:
        return script.main(command)
    except SystemExit as end:
        return end.code


def lines(workdir):
    """Return the records of ``metrics.jsonl``."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_study_does_each_training_once(script, data, monkeypatch, tmp_path, capsys):
    small = {"LABELS_A_CLASS": (1,), "DRAWS": 2, "STUDY_STEPS": 2, "STUDY_BATCH": 8, "SOURCE_EPOCHS": 0.02}
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    command = ["--workdir", str(tmp_path), "--parallel", "jit", "--image-size", "12", *data]
    trained, original = [], script._train

    def dying(*args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(original(*args))
        return trained[-1]

    monkeypatch.setattr(script, "_train", dying)
    assert script.main(command) == 130
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(script, "_train", lambda *args: trained.append(original(*args)) or trained[-1])
    assert script.main(command) == 0
    assert len(trained) == 8
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["accuracies"]) == ["from scratch", "frozen features", "last stage", "everything"]
    for scores in result["accuracies"].values():
        assert {labels: len(draws) for labels, draws in scores.items()} == {"1": 2}
    assert result["steps"] == 16
    assert result["images_per_second"] > 0
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    assert json.loads((tmp_path / "source" / "config.json").read_text())["resolved"]["label_names"] == list("01234")
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    assert script.main([*command, "--seed", "1"]) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err


UNFREEZE = ["--unfreeze", "0=head", "1=stage2", "--learning-rate-scale", "head=10"]
SMALL = [
    *("--train-examples", "24", "--test-examples", "8", "--batch-size", "8"),
    *("--epochs", "2", "--log-steps", "1", "--parallel", "jit"),
]


def final_state(workdir):
    """Return the arrays of the newest checkpoint by path, and what was frozen."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        leaves, meta = checkpoints._read(checkpoints.steps[-1])
    return leaves, set(meta["frozen"])


def killed_after(monkeypatch, step):
    """Let the training loop stop, as by a signal, after a step; its checkpoint is written."""
    original = TrainingLoop.train

    def train(self, stop, until=None):
        advance = self.setup.train

        def once(*args):
            if int(args[0].step) == step - 1:
                stop.number = 15
            return advance(*args)

        object.__setattr__(self.setup, "train", once)
        original(self, stop, until)

    monkeypatch.setattr(TrainingLoop, "train", train)


@pytest.fixture(scope="module")
def whole(script, weights, data, tmp_path_factory):
    """Return the command and the workdir of a run that thaws its second stage, and was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    command = ["--weights", weights, *SMALL, *data, *UNFREEZE]
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_dtype_promotion("standard"):
        assert script.main([*command, "--workdir", str(workdir)]) == 0
    return command, workdir


def test_a_run_from_weights(whole, weights):
    _, workdir = whole
    records = lines(workdir)
    assert [record["epoch"] for record in records if record["kind"] == "epoch"] == [1, 2]
    norms = [record["gradient_norm"] for record in records if record["kind"] == "train"]
    assert len(norms) == 6
    assert min(norms) > 0
    result = json.loads((workdir / "result.json").read_text())
    assert result["test_accuracy"] == records[-1]["test_accuracy"]
    assert result["images_per_second"] > 0
    assert result["test_loss"] < 3
    resolved = json.loads((workdir / "config.json").read_text())["resolved"]
    assert (resolved["mean"], resolved["image_size"], resolved["train_images"]) == ([0.1307], 28, 24)
    leaves, frozen = final_state(workdir)
    assert frozen == {"params/stage1/conv1/kernel", "params/stage1/conv1/bias"}
    given = cnnjax.pretrained.load("lenet5", weights, num_classes=7)["params"]
    np.testing.assert_array_equal(leaves["params/stage1/conv1/kernel"], given["stage1"]["conv1"]["kernel"])
    assert (leaves["params/stage2/conv1/kernel"] != given["stage2"]["conv1"]["kernel"]).any()
    # The weights were for another number of classes.
    assert leaves["params/head/classifier/kernel"].shape == (84, 10)


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(step, script, whole, monkeypatch, tmp_path):
    command, workdir = whole
    command = [*command, "--workdir", str(tmp_path)]
    with monkeypatch.context() as patch:
        killed_after(patch, step)
        assert script.main(command) == 128 + 15
    assert not (tmp_path / "result.json").exists()
    assert script.main(command) == 0
    expected, frozen = final_state(workdir)
    found, found_frozen = final_state(tmp_path)
    assert found_frozen == frozen
    assert found.keys() == expected.keys()
    assert all(found[path].tobytes() == expected[path].tobytes() for path in expected)


def test_other_parts_may_be_frozen_after_a_stop(script, weights, data, monkeypatch, tmp_path, capsys):
    command = ["--weights", weights, *SMALL, *data, "--workdir", str(tmp_path), "--optimizer", "adam"]
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        assert script.main([*command, "--frozen", "stage*"]) == 128 + 15
    before, _ = final_state(tmp_path)
    assert script.main([*command, "--frozen", "stage1"]) == 2
    assert "frozen: ['stage*'] there, ['stage1'] now" in capsys.readouterr().err
    assert script.main([*command, "--frozen", "stage1", "--change-frozen"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "stage2/conv1/bias, stage2/conv1/kernel are trained again or for the first time" in out
    after, frozen = final_state(tmp_path)
    assert frozen == {"params/stage1/conv1/kernel", "params/stage1/conv1/bias"}
    np.testing.assert_array_equal(after["params/stage1/conv1/kernel"], before["params/stage1/conv1/kernel"])
    assert (after["params/stage2/conv1/kernel"] != before["params/stage2/conv1/kernel"]).any()
    # What is frozen now is part of the run.
    assert script.main([*command, "--frozen", "stage1"]) == 0
    assert script.main([*command, "--frozen", "stage2", "--change-frozen"]) == 2
    assert "this one is complete" in capsys.readouterr().err


def test_from_scratch_on_eight_devices(script, data, tmp_path):
    small = [
        "--train-examples",
        "16",
        "--test-examples",
        "8",
        "--batch-size",
        "8",
        "--epochs",
        "1",
        "--parallel",
        "pmap",
    ]
    assert script.main(["--weights", "drawn", "--image-size", "12", *small, *data, "--workdir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["train_gradient_norm"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frozen", "stem"], "need --weights to start from"),
        (["--weights", "w", "--frozen", "a", "--unfreeze", "0=b"], "both say what trains"),
        (["--weights", "none.pth"], "there is no file"),
        (["--weights", "WEIGHTS", "--frozen", "stage9"], "pattern 'stage9' matches no parameter; near paths are stage"),
        (["--weights", "WEIGHTS", "--frozen", "**"], "freezes all 10 parameters"),
        (["--weights", "WEIGHTS", "--unfreeze", "0=head", "9=stage1"], "ends after 5 epochs, before something is"),
        (["--weights", "WEIGHTS", "--unfreeze", "head"], "--unfreeze must be EPOCH=PATTERN"),
        (["--weights", "WEIGHTS", "--learning-rate-scale", "head"], "must be PATTERN=FACTOR, got 'head'"),
        (["--weights", "WEIGHTS", "--model", "mlp"], "does not fit"),
        (["--epochs", "0"], "epochs must be above 0 and finite, got 0"),
        (["--epochs", "3"], "the study has its own --epochs"),
        (["--model", "unet"], "unet is no classifier"),
        (["--model", "lenet6"], "unknown model 'lenet6'"),
    ],
)
def test_what_is_refused(script, weights, data, flags, message, tmp_path, capsys):
    flags = [weights if flag == "WEIGHTS" else flag for flag in flags]
    assert run(script, [*flags, "--workdir", str(tmp_path / "run"), "--parallel", "jit", *data]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
