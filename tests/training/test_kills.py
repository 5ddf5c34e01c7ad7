"""A run that dies at any moment, in the middle of a save too, goes on to the same bits.

What SIGKILL leaves is what is on the disk at that moment. So one run is halted (SIGSTOP) at random moments, its folder
is copied each time, and it is let go on to its end; each copy is what a kill at that moment would have left.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from cnnjax.training import Checkpoints

SCRIPT = Path(__file__).parents[2] / "experiments" / "train.py"
PARTS = "*.orbax-checkpoint-tmp*"


def environment(cache):
    """Return that of one device, as users have it: in large pages, and with programs that are compiled once for all."""
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"}
    caching = {"CNNJAX_COMPILATION_CACHE": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return os.environ | flags | caching | {"CNNJAX_LARGE_PAGES": "on"}


def halt(process):
    """Stop a process, and return once all of its threads stand still."""
    process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")
    while any(path.read_text().rpartition(")")[2].split()[0] != "T" for path in threads.glob("*/stat")):
        time.sleep(0.0005)


def snapshots(process, workdir, folder, lines):
    """Copy the folder of a run once it has so many lines; every other time, while a checkpoint is being written."""
    rng = random.Random(0)
    metrics, taken = workdir / "metrics.jsonl", []
    deadline = time.monotonic() + 400
    for number, count in enumerate(lines):
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        while number % 2 and not any((workdir / "checkpoints").glob(PARTS)):
            assert process.poll() is None, "the run ended before its next checkpoint"
            time.sleep(0.0003)
        time.sleep(rng.uniform(0, 0.02))
        halt(process)
        taken.append(folder / f"{number}-after-{count}-lines")
        shutil.copytree(workdir, taken[-1])
        process.send_signal(signal.SIGCONT)
    return taken


def outcome(workdir):
    """Return everything that a run leaves, but for what depends on the clock."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        arrays, run = checkpoints.read(checkpoints.steps[-1])
        steps = checkpoints.steps
    clock = {"seconds", "train_seconds", "train_images", "images_per_second", "config"}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((workdir / "result.json").read_text())
    plain = [{key: value for key, value in each.items() if key not in clock} for each in (run, result, *lines)]
    return arrays, [steps, *plain]


@pytest.mark.slow
@pytest.mark.users
@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_a_run_that_dies_at_random_moments_goes_on_to_the_same_bits(moments, tmp_path):
    (tmp_path / "data").mkdir()
    epochs = max(1, moments // 2)
    flags = {
        **{"data-dir": tmp_path / "data", "workdir": tmp_path / "whole", "parallel": "single", "epochs": epochs},
        **{"train-split": "train[:176]", "test-split": "test[:100]"},
        **{"batch-size": 8, "log-steps": 2, "checkpoint-steps": 3, "ema-decay": 0.9, "patience": 100},
    }
    augment = ("--augment", "crop:2", "mixup:0.2")
    command = [
        sys.executable,
        str(SCRIPT),
        *(str(part) for key, value in flags.items() for part in (f"--{key}", value)),
    ]
    lines = epochs * 22 // 2
    targets = sorted(random.Random(1).sample(range(1, lines - 2), moments))
    cache = tmp_path / "cache"
    with subprocess.Popen(
        [*command, *augment], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(cache)
    ) as process:
        taken = snapshots(process, tmp_path / "whole", tmp_path, targets)
        _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    expected, notes = outcome(tmp_path / "whole")
    during_saves = sum(any((copy / "checkpoints").glob(PARTS)) for copy in taken)
    assert during_saves >= moments // 4
    assert all(not (copy / "result.json").exists() for copy in taken)

    script = f"""
        import dataclasses
        from pathlib import Path
        from cnnjax.training import fit, parse_config
        config = parse_config({[*command[2:], *augment]!r})
        for folder in {[str(copy) for copy in taken]!r}:
            fit(dataclasses.replace(config, workdir=Path(folder)))
    """
    resumed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(cache),
    )
    assert resumed.returncode == 0, resumed.stderr
    # The very first lines come before the first checkpoint.
    assert resumed.stdout.count("Going on from step") >= moments - 1
    for copy in taken:
        arrays, found = outcome(copy)
        assert found == notes, copy.name
        assert arrays.keys() == expected.keys()
        for path in arrays:
            np.testing.assert_array_equal(arrays[path], expected[path], err_msg=f"{path} of {copy.name}")
