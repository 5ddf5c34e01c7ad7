"""The script that fine-tunes: its study, a run from weights, and what it refuses."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.data import DataPipeline, load_dataset
from cnnjax.training import Checkpoints, ConfigError

SCRIPTS = Path(__file__).parents[2] / "experiments"


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"{name}_script", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    yield load_script("finetune")
    del sys.modules["finetune_script"]


def test_the_study(script, data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "LABELS_A_CLASS", (1, 5))
    monkeypatch.setattr(script, "DRAWS", 2)
    monkeypatch.setattr(script, "STUDY_STEPS", 3)
    command = ["--workdir", str(tmp_path), "--train-examples", "300", "--test-examples", "100", *data]
    assert script.main(command) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["accuracies"]) == ["from scratch", "frozen features", "last stage", "everything"]
    for scores in result["accuracies"].values():
        assert {labels: len(draws) for labels, draws in scores.items()} == {"1": 2, "5": 2}
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    assert "300 training and 100 test images of 28x28 pixels" in capsys.readouterr().out
    resolved = json.loads((tmp_path / "config.json").read_text())["resolved"]
    assert (resolved["train_images"], resolved["test_images"]) == (300, 100)
    assert script.main(command) == 0
    assert "is complete" in capsys.readouterr().out
    # Three hundred images are not a hundred of each class.
    monkeypatch.setattr(script, "LABELS_A_CLASS", (1, 100))
    assert script.main([*command, "--workdir", str(tmp_path / "few")]) == 2
    assert "needs 100 training images of each class" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()


def test_a_run_from_weights(script, weights, data, monkeypatch, tmp_path, capsys):
    states = []
    original = script.FineTuning.test

    def test(setup, state):
        states.append(jax.device_get(setup.devices.unreplicate(state)))
        return original(setup, state)

    monkeypatch.setattr(script.FineTuning, "test", test)
    command = ["--weights", weights, "--workdir", str(tmp_path), "--epochs", "2", "--parallel", "single", *data]
    assert script.main([*command, "--unfreeze", "0=head", "1=stage2", "--learning-rate-scale", "head=10"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in lines] == [1, 2]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_accuracy"] == lines[-1]["test_accuracy"]
    assert result["images_per_second"] > 0
    assert lines[0]["test_loss"] < 3
    first, second = states
    assert "params/stage2/conv1/kernel" in first.frozen
    assert second.frozen == {path for path in first.frozen if path.startswith("params/stage1")}
    np.testing.assert_array_equal(*(s.params["stage1"]["conv1"]["kernel"] for s in states))
    assert (first.params["stage2"]["conv1"]["kernel"] != second.params["stage2"]["conv1"]["kernel"]).any()
    # The weights were for another number of classes.
    assert first.params["head"]["classifier"]["kernel"].shape == (84, 10)
    # What was learnt can be used.
    run = cnnjax.load_run(tmp_path, "last")
    np.testing.assert_array_equal(
        run.variables["params"]["head"]["classifier"]["kernel"], second.params["head"]["classifier"]["kernel"]
    )
    assert run.label_names == tuple("0123456789")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


FEW = ["--train-examples", "128", "--test-examples", "50"]


def test_fewer_examples_are_the_first_ones_and_are_noted(script, data, tmp_path, capsys):
    command = ["--weights", "drawn", "--epochs", "1", "--workdir", str(tmp_path / "run"), "--parallel", "single"]
    assert script.main([*command, *FEW, *data]) == 0
    assert "128 training and 50 test images of 28x28 pixels" in capsys.readouterr().out
    noted = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (noted["config"]["train_examples"], noted["config"]["test_examples"]) == (128, 50)
    assert (noted["resolved"]["train_images"], noted["resolved"]["test_images"]) == (128, 50)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2
    # The test accuracy is that of the first fifty test images.
    run = cnnjax.load_run(tmp_path / "run", "last")
    test = DataPipeline.create(load_dataset("digits", data[1]), 28).test
    images, labels = test.read(np.arange(50))
    assert (run.logits(images).argmax(1) == labels).mean() == pytest.approx(result["test_accuracy"])
    evaluate = load_script("evaluate")
    assert evaluate.main(["--workdir", str(tmp_path / "run"), "--which", "last"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation-2.json").read_text())
    assert (found["test_images"], found["test_accuracy"]) == (50, pytest.approx(result["test_accuracy"]))
    assert script.main([*command, *FEW[:3], "60", *data]) == 2
    assert "test_examples: 50 there, 60 now" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(script, weights, data, tmp_path, monkeypatch, capsys):
    command = ["--weights", weights, "--epochs", "3", "--parallel", "single", "--unfreeze", "0=head", "1=stage2"]
    command += [*FEW, "--checkpoint-steps", "1", *data]
    assert script.main([*command, "--workdir", str(tmp_path / "whole")]) == 0
    step = script.ThawingStep.__call__

    def stopping(self, state, sums, batch):
        if int(state.step) == 3:
            raise KeyboardInterrupt
        return step(self, state, sums, batch)

    monkeypatch.setattr(script.ThawingStep, "__call__", stopping)
    assert script.main([*command, "--workdir", str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(script.ThawingStep, "__call__", step)
    capsys.readouterr()
    assert script.main([*command, "--workdir", str(tmp_path / "parts")]) == 0
    # The newest checkpoint is of the second phase, in the middle of its first epoch.
    output = capsys.readouterr().out
    assert "Going on from step 3 of 6" in output
    assert "optimizer" not in output
    arrays = []
    for name in ("whole", "parts"):
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            arrays.append(checkpoints.read(6)[0])
    assert arrays[0].keys() == arrays[1].keys()
    assert any(path.startswith("opt_state") for path in arrays[0])
    for path, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][path])


def test_networks_that_flatten_are_told_to_keep_their_size(script, weights, data, tmp_path, capsys):
    command = ["--weights", weights, "--image-size", "32", "--workdir", str(tmp_path / "run"), *data]
    assert script.main(command) == 2
    assert "takes images of the size it was trained with alone; leave out --image-size" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen": ("stem",)}, "need --weights to start from"),
        ({"weights": "w", "frozen": ("a",), "unfreeze": ("0=b",)}, "both say what trains"),
        ({"weights": "w", "unfreeze": ("head",)}, "--unfreeze must be EPOCH=PATTERN"),
        ({"weights": "w", "learning_rate_scale": ("head",)}, "must be PATTERN=FACTOR, got 'head'"),
        ({"epochs": 0}, "epochs must be above 0 and finite, got 0"),
        ({"train_examples": 0}, "train_examples must be at least 1, got 0"),
        ({"test_examples": -1}, "test_examples must be at least 1, got -1"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"model": "unet"}, "unet is no classifier"),
        ({"model": "lenet6"}, "unknown model 'lenet6'"),
    ],
)
def test_impossible_configs_are_refused(script, fields, message):
    with pytest.raises(ConfigError, match=message):
        script.Config(**fields)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "none.pth"], "there is no file"),
        (["--frozen", "stage9"], "pattern 'stage9' matches no parameter; near paths are stage"),
        (["--frozen", "**"], "freezes all 10 parameters"),
        (["--unfreeze", "0=head", "9=stage1"], "ends after 5 epochs, before something is"),
        (["--model", "mlp"], "does not fit"),
        (["--train-examples", "5000"], "train_examples must be from 1 to 1438"),
        (["--train-examples", "40"], "batch_size must be at most 40"),
    ],
)
def test_what_does_not_fit_is_refused(script, weights, data, flags, message, tmp_path, capsys):
    command = ["--weights", weights, *flags, "--workdir", str(tmp_path / "run"), "--parallel", "single", *data]
    assert script.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def poison(monkeypatch, script, bad):
    """Make the gradients of some steps infinite."""
    original = script.train_step

    def step(state, batch, **options):
        factor = jnp.where(jnp.isin(state.step + 1, jnp.array(bad)), jnp.inf, 1.0).astype(jnp.float32)
        params = state.params | {"head": jax.tree.map(lambda leaf: leaf * factor, state.params["head"])}
        return original(state.replace(params=params), batch, **options)

    monkeypatch.setattr(script, "train_step", step)


def test_a_loss_that_is_not_finite_stops_the_run(script, weights, data, tmp_path, capsys):
    command = ["--weights", weights, "--workdir", str(tmp_path), "--parallel", "single", *data]
    assert script.main([*command, "--frozen", "stage1", "--optimizer", "sgd", "--learning-rate", "1e30"]) == 2
    assert "error: the loss is nan at step" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "result.json").exists()


def test_the_study_stops_too(script, data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "STUDY_STEPS", 3)
    poison(monkeypatch, script, [5])
    assert script.main(["--workdir", str(tmp_path), *data]) == 2
    assert "the loss or its gradient is not finite at step 5 of 12; lower --learning-rate" in " ".join(
        capsys.readouterr().err.split()
    )
