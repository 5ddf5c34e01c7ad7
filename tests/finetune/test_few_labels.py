"""The script that measures what transfer is worth with few labels."""

import json

import jax
import jax.numpy as jnp
import pytest

from cnnjax.training import ConfigError


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("few_labels")


@pytest.mark.slow
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


def poison(monkeypatch, script, bad):
    """Make the gradients of some steps infinite."""
    original = script.train_step

    def step(state, batch, **options):
        factor = jnp.where(jnp.isin(state.step + 1, jnp.array(bad)), jnp.inf, 1.0).astype(jnp.float32)
        params = state.params | {"head": jax.tree.map(lambda leaf: leaf * factor, state.params["head"])}
        return original(state.replace(params=params), batch, **options)

    monkeypatch.setattr(script, "train_step", step)


@pytest.mark.slow
def test_the_study_stops_too(script, data, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "STUDY_STEPS", 3)
    poison(monkeypatch, script, [5])
    assert script.main(["--workdir", str(tmp_path), *data]) == 2
    assert "the loss or its gradient is not finite at step 5 of 12; lower --learning-rate" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_examples": 0}, "train_examples must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, got 0.0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"model": "unet"}, "unet is a network for segmentation"),
        ({"model": "lenet6"}, "unknown model 'lenet6'"),
    ],
)
def test_impossible_configs_are_refused(script, fields, message):
    with pytest.raises(ConfigError, match=message):
        script.Config(**fields)
