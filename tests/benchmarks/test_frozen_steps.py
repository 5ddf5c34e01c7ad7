"""What freezing saves, as the script measures it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "frozen_steps.py"


@pytest.mark.exhaustive
def test_memory_is_measured_in_processes_of_their_own_and_falls():
    flags = ["--model", "resnet20", "--batch-size", "128", "--turns", "1", "--json", "-"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    forward, full, _, head = rows.values()
    assert forward["convolutions"] == head["convolutions"] < full["convolutions"]
    for row in rows.values():
        assert row["measured_mib"] > 0
        assert row["milliseconds"] > 0
    assert head["measured_mib"] < 0.5 * full["measured_mib"]


@pytest.mark.slow
def test_impossible_values_are_refused():
    done = subprocess.run([sys.executable, SCRIPT, "--turns", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--batch-size and --turns must be at least 1" in done.stderr
