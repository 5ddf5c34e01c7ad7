"""The script that fine-tunes: its study, a run from weights, and what it refuses."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_the_study(script, data, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "LABELS_A_CLASS", (1, 5))
    monkeypatch.setattr(script, "DRAWS", 2)
    monkeypatch.setattr(script, "STUDY_STEPS", 3)
    assert script.main(["--workdir", str(tmp_path), *data]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["accuracies"]) == ["from scratch", "frozen features", "last stage", "everything"]
    for scores in result["accuracies"].values():
        assert {labels: len(draws) for labels, draws in scores.items()} == {"1": 2, "5": 2}
    assert (tmp_path / "transfer.png").stat().st_size > 10_000


def test_a_run_from_weights(script, weights, data, monkeypatch, tmp_path, capsys):
    states = []
    original = script._test
    monkeypatch.setattr(script, "_test", lambda *args: states.append(jax.device_get(args[2])) or original(*args))
    command = ["--weights", weights, "--workdir", str(tmp_path), "--epochs", "2", "--parallel", "single", *data]
    assert script.main([*command, "--unfreeze", "0=head", "1=stage2", "--learning-rate-scale", "head=10"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_accuracy"] == lines[-1]["test_accuracy"]
    assert lines[0]["test_loss"] < 3
    first, second = states
    assert "params/stage2/conv1/kernel" in first.frozen
    assert second.frozen == {path for path in first.frozen if path.startswith("params/stage1")}
    np.testing.assert_array_equal(*(s.params["stage1"]["conv1"]["kernel"] for s in states))
    assert (first.params["stage2"]["conv1"]["kernel"] != second.params["stage2"]["conv1"]["kernel"]).any()
    # The weights were for another number of classes.
    assert first.params["head"]["classifier"]["kernel"].shape == (84, 10)


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
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--model", "unet"], "unet is no classifier"),
        (["--model", "lenet6"], "unknown model 'lenet6'"),
    ],
)
def test_what_is_refused(script, weights, data, flags, message, tmp_path, capsys):
    flags = [weights if flag == "WEIGHTS" else flag for flag in flags]
    assert script.main([*flags, "--workdir", str(tmp_path / "run"), "--parallel", "single", *data]) == 2
    assert message in capsys.readouterr().err


def poison(monkeypatch, script, bad):
    """Make the gradients of some steps infinite."""
    original = script.train_step

    def step(state, batch, **options):
        factor = jnp.where(jnp.isin(state.step + 1, jnp.array(bad)), jnp.inf, 1.0).astype(jnp.float32)
        params = state.params | {"head": jax.tree.map(lambda leaf: leaf * factor, state.params["head"])}
        return original(state.replace(params=params), batch, **options)

    monkeypatch.setattr(script, "train_step", step)


@pytest.mark.parametrize("parallel", ["single", "pmap"])
def test_a_loss_that_is_not_finite_stops_the_run_where_it_was(
    script, weights, data, monkeypatch, tmp_path, capsys, parallel
):
    # The second epoch's fourth step, and what comes after it.
    poison(monkeypatch, script, range(27, 99))
    command = ["--weights", weights, "--workdir", str(tmp_path), "--epochs", "3", "--parallel", parallel, *data]
    assert script.main([*command, "--frozen", "stage1"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "error: the loss is nan at step 27 (learning rate 0.0006" in error
    assert "gradient norm nan). Gradients that are not finite: stage2/" in error
    assert "parameters: none. Lower --learning-rate" in error
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]
    assert not (tmp_path / "result.json").exists()


def test_the_study_stops_too(script, data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "STUDY_STEPS", 3)
    poison(monkeypatch, script, [5])
    assert script.main(["--workdir", str(tmp_path), *data]) == 2
    assert "the loss or its gradient is not finite at step 5 of 12; lower --learning-rate" in " ".join(
        capsys.readouterr().err.split()
    )
