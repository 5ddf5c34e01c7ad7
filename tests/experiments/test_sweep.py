"""The search for hyper-parameters: what it tries, and that it goes on where it was stopped."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from cnnjax import sweep
from cnnjax.alive import process_identity
from cnnjax.sweep import trials
from cnnjax.training import RECIPES, ConfigError

SCRIPT = Path(__file__).parents[2] / "experiments" / "sweep.py"


def test_parameters_are_read_from_the_command_line():
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
def test_parameters_that_cannot_be_are_refused(text, expected):
    with pytest.raises(ConfigError, match=expected):
        sweep.Parameter.parse(text)


def test_values_go_to_flags_and_to_fields_of_the_network():
    config = RECIPES["cifar10-resnet20"].config
    values = {"learning_rate": 0.3, "augment": "crop:4 mirror", "model.dropout_rate": 0.25}
    changed = sweep.with_values(config, values)
    assert (changed.learning_rate, changed.augment) == (0.3, ("crop:4", "mirror"))
    assert changed.network_fields() == {"dropout_rate": 0.25}
    assert sweep.with_values(config, {"augment": "none"}).augment == ()
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        sweep.with_values(config, {"batch_size": 0})


@pytest.mark.parametrize("recipe", ["digits-lenet5", "cifar10-resnet20"])
def test_what_is_tried_by_default_is_around_the_recipe(recipe):
    config = RECIPES[recipe].config
    search = {parameter.name: parameter for parameter in sweep.default_search(config)}
    assert search["learning_rate"].low < config.learning_rate < search["learning_rate"].high
    assert config.batch_size in search["batch_size"].choices
    for parameter in search.values():
        for value in parameter.choices:
            sweep.with_values(config, {parameter.name: value})


def test_impossible_flags_are_one_line(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("sweep_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--workdir", str(tmp_path), "--search", "batch_size=0|64"]) == 2
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


def plan():
    """Return a config, and what to search."""
    config = RECIPES["digits-lenet5"].config
    return config, [sweep.Parameter("learning_rate", low=1e-3, high=1e-2, log=True)]


def trained(config, console):
    """Stand for training."""
    (config.workdir / "result.json").write_text("{}")
    return {"best_test_accuracy": config.learning_rate}


@pytest.mark.extras
def test_a_file_is_shared_by_machines_and_trials_of_dead_processes_go_on(tmp_path, monkeypatch):
    config, search = plan()
    monkeypatch.setattr(trials, "fit", trained)
    here = sweep.Place(tmp_path / "here", str(tmp_path / "shared" / "study.log"), "s")
    there = sweep.Place(tmp_path / "there", here.storage, "s")
    # One trial of a process of this machine that is gone, one of another machine.
    study = here.open(config)
    own, other = study.ask(), study.ask()
    rate = own.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    own.set_user_attr("process", process_identity() | {"started": "1"})
    own.set_user_attr("folder", "0")
    other.set_user_attr("process", process_identity() | {"host": "elsewhere"})
    assert sweep.work(0, config, search, here, 3) == 0
    assert sweep.work(0, config, search, there, 5) == 0
    found = study.get_trials()
    assert [trial.state.name for trial in found] == ["FAIL", "RUNNING", *["COMPLETE"] * 4]
    assert found[2].params == {"learning_rate": rate}
    assert found[2].user_attrs["folder"] == "0"
    assert sorted(path.parent.name for path in tmp_path.glob("*ere/trials/*/result.json")) == ["0", "3", "4", "5"]
    # Drawn by two machines, none is another's.
    assert len({trial.params["learning_rate"] for trial in found[2:]}) == 4


@pytest.mark.extras
def test_a_folder_that_another_machine_has_locked_is_left_to_it(tmp_path, monkeypatch):
    config, search = plan()
    monkeypatch.setattr(trials, "fit", trained)
    place = sweep.Place(tmp_path)
    study = place.open(config)
    gone = study.ask()
    gone.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    gone.set_user_attr("process", process_identity() | {"started": "1"})
    (tmp_path / "trials" / "0").mkdir(parents=True)
    (tmp_path / "trials" / "0" / "lock.json").write_text('{"host": "elsewhere", "pid": 1, "since": "now"}')
    gone.set_user_attr("folder", "0")
    assert sweep.work(0, config, search, place, 1) == 0
    assert study.get_trials()[1].user_attrs["folder"] == "1"
    assert [path.name for path in (tmp_path / "trials" / "0").iterdir()] == ["lock.json"]


@pytest.mark.extras
@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("foo://x", "--storage foo://x cannot be used"),
        (
            "postgresql://me:secret@127.0.0.1:1/x",
            r"--storage postgresql://me:\*\*\*@127.0.0.1:1/x cannot be used: .*ref",
        ),
    ],
)
def test_storages_that_cannot_be_are_one_line(tmp_path, storage, expected):
    with pytest.raises(ConfigError, match=expected) as found:
        sweep.Place(tmp_path, storage).open(RECIPES["digits-lenet5"].config)
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)


@pytest.fixture
def postgres():
    """Start a PostgreSQL server, and yield the URL of a database on it."""
    programs = {name: shutil.which(name) for name in ("initdb", "postgres")}
    assert all(programs.values()), f"PostgreSQL's {programs} must be on PATH for this test"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    # It refuses to run as root.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    if user:
        os.chown(folder, 65534, 65534)
    data = folder / "data"
    init = [*user, programs["initdb"], "-D", data, "-U", "me", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8"]
    subprocess.run([*map(str, init)], check=True, capture_output=True, cwd=folder)
    options = ("-c", "fsync=off", "-c", f"unix_socket_directories={folder}", "-c", "listen_addresses=127.0.0.1")
    with subprocess.Popen(
        [*user, programs["postgres"], "-D", str(data), "-p", str(port), *options], stderr=subprocess.DEVNULL, cwd=folder
    ) as server:
        deadline = time.monotonic() + 60
        while not (data / "postmaster.pid").exists() or "ready" not in (data / "postmaster.pid").read_text():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
        server.send_signal(signal.SIGQUIT)
    shutil.rmtree(folder)


@pytest.mark.extras
def test_a_database_is_shared_and_a_killed_worker_s_trial_is_taken_up_by_another(tmp_path, monkeypatch, postgres):
    """The first worker is a process that is killed in the middle of its trial."""
    config, search = plan()
    place = sweep.Place(tmp_path, postgres, "s", heartbeat=1)
    code = f"""
import time
from pathlib import Path
from cnnjax import sweep
from cnnjax.sweep import trials
from cnnjax.training import RECIPES
def stuck(config, console):
    (config.workdir / "begun").write_text("")
    time.sleep(600)
trials.fit = stuck
search = [sweep.Parameter("learning_rate", low=1e-3, high=1e-2, log=True)]
place = sweep.Place(Path({str(tmp_path)!r}), {postgres!r}, "s", 1)
sweep.work(0, RECIPES["digits-lenet5"].config, search, place, 2)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        deadline = time.monotonic() + 300
        while not (tmp_path / "trials" / "0" / "begun").exists():
            assert worker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.kill()
    monkeypatch.setattr(trials, "fit", trained)
    assert sweep.work(1, config, search, place, 2) == 0
    found = place.open(config).get_trials()
    assert [trial.state.name for trial in found] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert found[2].params == found[0].params
    assert found[2].user_attrs["folder"] == "0"
    assert (tmp_path / "trials" / "0" / "result.json").exists()
