import json

import numpy as np
import pytest


def test_arrays_are_compared_by_their_bits(benchmark):
    compare = benchmark("same_bits").compare
    zeros, nan = np.zeros(2, np.float32), np.full(2, np.nan, np.float32)
    assert compare({"a": zeros, "b": nan}, {"a": zeros.copy(), "b": nan.copy()}) == {"arrays": 2, "differing": []}
    found = compare({"a": zeros, "b": nan, "c": zeros}, {"a": -zeros, "b": nan, "d": zeros})
    assert found == {"arrays": 3, "differing": ["a", "c", "d"]}


def test_what_differs_is_named_and_changes_the_exit_code_where_it_should_not(run, benchmark, monkeypatch):
    same = {"arrays": 3, "differing": []}
    other = {"arrays": 3, "differing": ["params/head/bias"], "first_loss": 7}

    def row(platform, deterministic):
        cells = {"repeated": same, "resumed": same, "compiled anew": other}
        return {"device": "H100", "platform": platform, "deterministic": deterministic, "step_ms": 1.0} | cells

    asked: list[bool] = []

    def measure(given, deterministic, *_):
        asked.append(deterministic)
        return row("gpu", deterministic)

    monkeypatch.setattr(benchmark("same_bits"), "measure", measure)
    code, output, _ = run("same_bits")
    assert (asked, code) == ([False, True], 1)
    assert "| H100 | no | same bits | same bits | 1 of 3 differ | 1.0 |" in output
    assert "compiled anew, deterministic: params/head/bias; the first loss that differs is that of step 7" in output
    monkeypatch.setattr(benchmark("same_bits"), "measure", lambda *_: row("cpu", False))
    code, output, _ = run("same_bits")
    assert (output.count("| H100 |"), code) == (1, 1)
    # Without --deterministic, a GPU promises nothing.
    monkeypatch.setattr(benchmark("same_bits"), "measure", lambda *_: row("gpu", False))
    assert run("same_bits", "--deterministic", "no")[0] == 0
    asked.clear()
    monkeypatch.setattr(benchmark("same_bits"), "measure", measure)
    assert run("same_bits", "--deterministic", "yes")[0] == 1
    assert asked == [True]


def test_a_run_that_would_not_be_killed_is_refused(run):
    code, _, errors = run("same_bits", "--steps", 12)
    assert code == 2
    assert "--steps must be more than 12" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_processor_gives_the_same_bits(run, tmp_path):
    code, output, progress = run(
        *("same_bits", "--model", "lenet5", "--image-size", 28, "--steps", 14, "--deterministic", "yes"),
        *("--json", tmp_path / "rows.json"),
    )
    assert code == 0
    assert output.count("same bits") == 3
    assert "killed" in progress
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["deterministic"], row["platform"]) == (True, "cpu")
    # Parameters, moments of the optimizer, and the rest of a checkpoint.
    assert row["resumed"]["arrays"] > 3 * 10
    assert row["resumed"]["first_loss"] is row["compiled anew"]["first_loss"] is None
