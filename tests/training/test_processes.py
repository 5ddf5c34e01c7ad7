"""Real processes on this machine, which find each other over TCP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data.source import ArraySplit, fingerprint
from cnnjax.training import Checkpoints, ProcessesError, connect, processes

SCRIPT = Path(__file__).parents[2] / "experiments" / "train.py"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def launch(devices, *flags):
    flag = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flag}"},
        start_new_session=True,
    )


def launch_two(*flags, others=()):
    """Start two processes with two devices each; ``others`` are further flags of the second."""
    address = f"127.0.0.1:{free_port()}"
    meet = ("--coordinator", address, "--num-processes", 2, "--coordinator-timeout", 120)
    return [launch(2, *flags, *meet, "--process-id", index, *(others if index else ())) for index in range(2)]


def ends(processes, timeout=300):
    """Return exit code and stderr of each."""
    found = []
    for process in processes:
        with process:
            _, errors = process.communicate(timeout=timeout)
        found.append((process.returncode, errors))
    return found


def wait_for_lines(workdir, count, processes):
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= count):
        for process in processes:
            assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def records(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.exhaustive
def test_two_processes_stop_die_and_resume_elsewhere_to_the_numbers_of_one(tmp_path):
    """The same batches in two processes of two devices, then in one of two, as in one of one."""
    (tmp_path / "data").mkdir()
    flags = {
        "model": "resnet20",
        "data-dir": tmp_path / "data",
        "batch-size": 32,
        "epochs": 0.4,
        "optimizer": "sgd",
        "learning-rate": 0.001,
        "log-steps": 2,
        "checkpoint-steps": 4,
    }
    common = [part for key, value in flags.items() for part in (f"--{key}", value)]
    alone = launch(1, *common, "--workdir", tmp_path / "alone", "--num-processes", 1)
    assert ends([alone])[0][0] == 0

    together = [*common, "--workdir", tmp_path / "together", "--parallel", "jit"]
    pair = launch_two(*together)
    wait_for_lines(tmp_path / "together", 2, pair)
    # A signal to one stops both at one step, with one checkpoint.
    pair[1].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends(pair)] == [143, 143]
    before = len(records(tmp_path / "together"))
    pair = launch_two(*together)
    wait_for_lines(tmp_path / "together", before + 1, pair)
    pair[1].kill()
    (code, errors), (killed, _) = ends(pair)
    assert killed == -signal.SIGKILL
    # What exchanges arrays on CPUs may wait for the other one until JAX notices after a minute, and aborts.
    assert code in (2, -signal.SIGABRT)
    if code == 2:
        assert errors.startswith("error: another process of this run is gone, or cannot be reached any more; start all")
        assert errors.count("\n") == 1
    assert not (tmp_path / "together" / "result.json").exists()
    assert ends([launch(2, *together, "--num-processes", 1)])[0][0] == 0

    expected, found = records(tmp_path / "alone"), records(tmp_path / "together")
    assert [(line["kind"], line["step"]) for line in found] == [(line["kind"], line["step"]) for line in expected]
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"kind"}:
            # Accuracies are of 32 to 359 images, a few of which lie on a border.
            rtol, atol = (0, 0.02) if "accuracy" in key else (5e-3, 0) if "norm" in key else (2e-4, 0)
            np.testing.assert_allclose(one[key], other[key], rtol=rtol, atol=atol, err_msg=f"{key} at {one['step']}")
    arrays = []
    for folder in ("alone", "together"):
        with Checkpoints(tmp_path / folder / "checkpoints") as checkpoints:
            arrays.append(checkpoints.read(checkpoints.steps[-1])[0])
    assert arrays[0].keys() == arrays[1].keys()
    for path, array in arrays[0].items():
        if path.startswith(("params/", "batch_stats/", "step")):
            # Rectifiers and batch norm let rounding grow in gradients; here it is times the learning rate.
            difference = np.linalg.norm((array.astype(np.float64) - arrays[1][path]).ravel())
            assert difference <= 1e-3 * np.linalg.norm(array.astype(np.float64).ravel()) + 1e-3, path


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_examples_on_the_devices_of_two_processes_give_the_numbers_of_the_host(tmp_path, mode):
    """Each process has all examples on its devices, and takes its part of each batch by their places."""
    (tmp_path / "data").mkdir()
    flags = {
        "data-dir": tmp_path / "data",
        "batch-size": 32,
        "epochs": 0.4,
        "optimizer": "sgd",
        "learning-rate": 0.05,
        "augment": "mirror",
        "log-steps": 2,
        "checkpoint-steps": 4,
    }
    common = [part for key, value in flags.items() for part in (f"--{key}", value)]
    alone = launch(1, *common, "--workdir", tmp_path / "alone", "--num-processes", 1, "--data-on-device", "no")
    assert ends([alone])[0][0] == 0
    together = [*common, "--workdir", tmp_path / "together", "--parallel", mode, "--data-on-device", "yes"]
    for code, errors in ends(launch_two(*together, "--steps-per-dispatch", 2)):
        assert code == 0, errors
    expected, found = records(tmp_path / "alone"), records(tmp_path / "together")
    assert [(line["kind"], line["step"]) for line in found] == [(line["kind"], line["step"]) for line in expected]
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"kind"}:
            rtol, atol = (0, 0.02) if "accuracy" in key else (2e-4, 0)
            np.testing.assert_allclose(one[key], other[key], rtol=rtol, atol=atol, err_msg=f"{key} at {one['step']}")


@pytest.mark.slow
def test_processes_that_disagree_all_exit_and_say_on_what(tmp_path):
    (tmp_path / "data").mkdir()
    pair = launch_two(
        *("--data-dir", tmp_path / "data", "--workdir", tmp_path / "run", "--batch-size", 64),
        others=("--learning-rate", 0.5),
    )
    for code, errors in ends(pair):
        assert code == 2
        assert "the processes disagree: learning_rate is 0.002 in process 0 and 0.5 in process 1" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({"SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "4"}, "all"),
        ({"SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "32"}, "0"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, "0"),
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "JAX_LOCAL_DEVICE_IDS": "0"}, "0"),
    ],
)
def test_one_process_per_node_takes_all_gpus_of_the_node(environment, visible, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # So JAX does where SLURM or Open MPI started the process.
    flag = "jax_cuda_visible_devices"
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: jax.config.update(flag, "0"))
    before = {name: jax.config.values[name] for name in (flag, "jax_enable_preemption_service")}
    try:
        connect()
        assert jax.config.values[flag] == visible
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_what_jax_says_of_a_process_that_is_gone_is_one_sentence(monkeypatch):
    def lose():
        with processes.noticing_losses():
            raise jax.errors.JaxRuntimeError("INTERNAL: Gloo AllGather failed: Connection reset by peer\nmore")

    with pytest.raises(jax.errors.JaxRuntimeError):
        lose()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(processes.LostProcessError) as found:
        lose()
    assert str(found.value) == (
        "another process of this run is gone, or cannot be reached any more; start all of them again, with the same "
        "commands, to go on from the last checkpoint (INTERNAL: Gloo AllGather failed: Connection reset by peer)"
    )


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ({"classes": ["cat", "dog"]}, "classes is ['bird', 'dog'] in process 0 and ['cat', 'dog'] in process 1"),
        ({"training examples": 7}, "training examples is 8 in process 0 and 7 in process 1"),
        ({"fingerprint": "b"}, "fingerprint is 'a' in process 0 and 'b' in process 1"),
        ({}, None),
    ],
)
def test_copies_of_the_data_are_compared(ours, expected, monkeypatch):
    theirs = {"classes": ["bird", "dog"], "training examples": 8, "fingerprint": "a"}
    monkeypatch.setattr(processes, "share", lambda data: json.dumps(theirs).encode())
    monkeypatch.setattr(processes, "together", lambda function: function())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    if expected is None:
        processes.agree_on_data(theirs)
        return
    with pytest.raises(ProcessesError) as found:
        processes.agree_on_data(theirs | ours)
    assert str(found.value) == (
        f"the processes read different data: {expected}; give all of them a copy of the same (--data-dir)"
    )


def test_copies_of_a_split_have_one_fingerprint_and_others_another():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    labels = random.integers(0, 3, 40).astype(np.int32)
    own = fingerprint(ArraySplit(images, labels))
    assert own == fingerprint(ArraySplit(images.copy(), labels.copy()))
    others = [(images[::-1], labels), (images, (labels + 1) % 3), (images[:30], labels[:30]), (images ^ 1, labels)]
    assert len({own, *(fingerprint(ArraySplit(*other)) for other in others)}) == 5
    assert fingerprint(ArraySplit(images[:1], labels[:1])) != own


@pytest.mark.exhaustive
def test_processes_whose_data_differs_all_exit_and_say_in_what(tmp_path):
    """Folders of as many images, and of as many classes, with another name for one of them."""
    for copy, names in (("one", ("bird", "dog")), ("other", ("cat", "dog"))):
        for name in names:
            (tmp_path / copy / name).mkdir(parents=True)
            for number in range(10):
                Image.new("L", (28, 28), number).save(tmp_path / copy / name / f"{number}.png")
    flags = ("--dataset", "folder", "--workdir", tmp_path / "run", "--batch-size", 4, "--epochs", 1)
    pair = launch_two(*flags, "--data-dir", tmp_path / "one", others=("--data-dir", tmp_path / "other"))
    for code, errors in ends(pair):
        assert code == 2
        assert "the processes read different data: classes is ['bird', 'dog'] in process 0 and ['cat', 'dog']" in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_coordinator_that_is_not_there_is_an_error_in_seconds(tmp_path):
    started = time.monotonic()
    flags = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id", 1)
    [(code, errors)] = ends([launch(1, *flags, "--coordinator-timeout", 1, "--workdir", tmp_path / "run")])
    assert code == 2
    assert "error: no coordinator at 127.0.0.1:" in errors
    assert "Traceback" not in errors
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("host:1", None, 2), "coordinator, process_id and num_processes go together; process_id is missing"),
        ((None, 0, None), "coordinator and num_processes is missing"),
        (("host", 0, 2), "coordinator must be HOST:PORT, got 'host'"),
        (("host:1", 2, 2), "process_id must be from 0 to num_processes - 1, got 2 of 2"),
    ],
)
def test_flags_that_cannot_be_are_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        connect(*arguments)
