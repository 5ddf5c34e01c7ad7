"""What a run tells besides ``metrics.jsonl``: events for TensorBoard, and profiler traces."""

import dataclasses
import io
import json
import struct
import sys
import types

import pytest
from rich.console import Console

from cnnjax.training import Checkpoints, ConfigError, TrainConfig, fit


@pytest.fixture
def config(tmp_path):
    (tmp_path / "data").mkdir()
    return TrainConfig(
        data_dir=tmp_path / "data",
        workdir=tmp_path / "run",
        epochs=0.4,
        parallel="single",
        log_steps=4,
        skip_nonfinite=1,
    )


def run(config):
    return fit(config, Console(file=io.StringIO()))


def events(folder):
    """Return (tag, step, value) of all event files, oldest first, less what later files withdraw."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.iterdir()):
        data, start = file.read_bytes(), 0
        while start < len(data):
            (size,) = struct.unpack_from("<Q", data, start)
            event = event_pb2.Event.FromString(data[start + 12 : start + 12 + size])
            start += 12 + size + 4
            if event.HasField("session_log"):
                found = [entry for entry in found if entry[1] < event.step]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


@pytest.mark.extras
def test_events_are_the_metrics_file_and_resume_with_it(config, monkeypatch):
    config = dataclasses.replace(config, tensorboard=True, checkpoint_steps=5)
    save = Checkpoints.save

    def failing(self, step, *args, **kwargs):
        if step > 5:
            raise KeyboardInterrupt
        save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    run(config)
    records = [json.loads(line) for line in (config.run_directory / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (f"{record['kind']}/{name}", record["step"]): value
        for record in records
        for name, value in record.items()
        if name not in ("kind", "step") and isinstance(value, int | float)
    }
    found = events(config.run_directory / "events")
    assert len(found) == len(expected)
    assert {(tag, step) for tag, step, _ in found} == expected.keys()
    for tag, step, value in found:
        if not tag.endswith("seconds"):
            assert value == pytest.approx(expected[tag, step], rel=1e-6)
    assert ("train/nonfinite_steps", 4, 0.0) in found
    assert ("train/learning_rate", 8) in expected


def test_events_without_their_package_say_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r'needs the package tensorboardX: pip install "cnnjax\[tensorboard\]"'):
        run(dataclasses.replace(config, tensorboard=True))
    # Nothing was begun.
    assert not config.run_directory.exists()


def kept(config):
    return [json.loads(line) for line in (config.run_directory / "metrics.jsonl").read_text().splitlines()]


class FakeWandb(types.ModuleType):
    """The part of the package that a run uses."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []
        self.Settings = dict

    def init(self, **given):
        self.given, self.logged, self.ended = given, [], None
        self.runs.append(self)
        return self

    def log(self, numbers, step):
        assert self.ended is None
        self.logged.append((step, numbers))

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.mark.slow
def test_loggers_get_every_record_of_a_run_that_goes_on_too(config, monkeypatch):
    """A plain function; one that is a context manager; and Weights & Biases."""
    package = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", package)
    config = dataclasses.replace(config, checkpoint_steps=5, wandb="somewhere")
    seen, state = [], []

    class Managed:
        def __enter__(self):
            state.append("open")

        def __exit__(self, *error):
            state.append("closed")

        def __call__(self, record):
            state.append(record["step"])
            if record["step"] == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, Console(file=io.StringIO()), loggers=[seen.append, Managed()])
    assert state == ["open", 4, 8, "closed"]
    assert (package.ended, package.given["project"]) == (1, "somewhere")
    first = package.given["id"]
    fit(config, Console(file=io.StringIO()), loggers=[seen.append])
    assert (package.ended, package.given["id"], package.given["resume"]) == (0, first, "allow")
    records = kept(config)
    assert [record["step"] for record in records] == [4, 8, 9]
    # Step 8 came after the last checkpoint, and so again.
    assert [record["step"] for record in seen] == [4, 8, 8, 9]
    assert [seen[0], *seen[2:]] == records
    assert package.given["config"]["model"] == "lenet5"
    assert package.logged[-1][0] == 9
    numbers = package.logged[-1][1]
    assert numbers["epoch/test_accuracy"] == records[-1]["test_accuracy"]
    assert all(name.startswith("epoch/") and isinstance(value, int | float) for name, value in numbers.items())


def test_weights_and_biases_without_their_package_say_what_to_install(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r'--wandb needs the package wandb: pip install "cnnjax\[wandb\]"'):
        run(dataclasses.replace(config, wandb="x"))
    assert not config.run_directory.exists()


@pytest.mark.slow
def test_some_steps_are_traced(config):
    run(dataclasses.replace(config, profile="3:4"))
    [trace] = (config.run_directory / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


@pytest.mark.parametrize("text", ["5", "0:4", "7:6", "a:b", "1:2:3"])
def test_steps_to_trace_are_checked(text):
    with pytest.raises(ConfigError, match=f"profile must be A:B, steps from 1 with A at most B, got '{text}'"):
        TrainConfig(profile=text)
