"""The search for hyper-parameters: what it tries, and that it goes on where it was stopped."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cnnjax.training import RECIPES, ConfigError

SCRIPT = Path(__file__).parents[2] / "experiments" / "sweep.py"


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("sweep")
    sys.path.remove(str(SCRIPT.parent))


def test_parameters_are_read_from_the_command_line(sweep):
    assert sweep.Parameter.parse("learning_rate=1e-4:0.1:log") == sweep.Parameter(
        "learning_rate", low=1e-4, high=0.1, log=True
    )
    assert sweep.Parameter.parse("batch_size=32|64").choices == (32, 64)
    assert sweep.Parameter.parse("model.dropout_rate=0:0.5") == sweep.Parameter("model.dropout_rate", low=0, high=0.5)
    # A colon is also part of what augmentations are called.
    augment = sweep.Parameter.parse("augment=none|crop:4 mirror|randaugment:2,9")
    assert augment.choices == ("none", "crop:4 mirror", "randaugment:2,9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rat=1:2", "a parameter must be NAME=LOW:HIGH"),
        ("batch_size", "a parameter must be NAME=LOW:HIGH"),
        ("learning_rate=0.1:0.01", "must go from a lower to a higher value"),
        ("learning_rate=0:0.1:log", "above 0 for log"),
    ],
)
def test_parameters_that_cannot_be_are_refused(sweep, text, expected):
    with pytest.raises(ConfigError, match=expected):
        sweep.Parameter.parse(text)


def test_values_go_to_flags_and_to_fields_of_the_network(sweep):
    config = RECIPES["cifar10-resnet20"].config
    values = {"learning_rate": 0.3, "augment": "crop:4 mirror", "model.dropout_rate": 0.25}
    changed = sweep.with_values(config, values)
    assert (changed.learning_rate, changed.augment) == (0.3, ("crop:4", "mirror"))
    assert changed.network_fields() == {"dropout_rate": 0.25}
    assert sweep.with_values(config, {"augment": "none"}).augment == ()
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        sweep.with_values(config, {"batch_size": 0})


@pytest.mark.parametrize("recipe", ["digits-lenet5", "cifar10-resnet20"])
def test_what_is_tried_by_default_is_around_the_recipe(sweep, recipe):
    config = RECIPES[recipe].config
    search = {parameter.name: parameter for parameter in sweep.default_search(config)}
    assert search["learning_rate"].low < config.learning_rate < search["learning_rate"].high
    assert config.batch_size in search["batch_size"].choices
    for parameter in search.values():
        for value in parameter.choices:
            sweep.with_values(config, {parameter.name: value})


def test_impossible_flags_are_one_line(sweep, tmp_path, capsys):
    assert sweep.main(["--workdir", str(tmp_path), "--search", "batch_size=0|64"]) == 2
    assert "batch_size must be at least 1, got 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_a_sweep_that_is_stopped_goes_on(tmp_path):
    (tmp_path / "data").mkdir()
    folder = tmp_path / "sweep"
    command = [
        *(sys.executable, SCRIPT, "--data-dir", tmp_path / "data", "--workdir", folder, "--epochs", "2"),
        *("--parallel", "single", "--search", "learning_rate=1e-3:1e-2:log", "augment=none|crop:2", "--processes", "2"),
    ]

    def start(trials):
        return subprocess.Popen(
            [*map(str, command), "--trials", str(trials)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with start(2) as process:
        deadline = time.monotonic() + 300
        while len(list(folder.glob("trials/*/config.json"))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert not (folder / "result.json").exists()
    with start(3) as process:
        text, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "2 trials that were stopped go on" in text
    result = json.loads((folder / "result.json").read_text())
    assert result["complete"] == 3
    assert 1e-3 <= result["best"]["parameters"]["learning_rate"] <= 1e-2
    # The resumed ones go on in their own folders.
    assert sorted(path.parent.name for path in folder.glob("trials/*/result.json"))[:2] == ["0", "1"]
    assert len(list((folder / "trials").iterdir())) == 3
    with Image.open(folder / "sweep.png") as picture:
        assert picture.size[0] > 1000
    with start(3) as process:
        text, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert "trial 0:" not in text
    changed = subprocess.run(
        [*map(str, command), "--seed", "5"], capture_output=True, text=True, check=False, timeout=100
    )
    assert changed.returncode == 2
    assert "holds another sweep" in changed.stderr
