"""Where a benchmark's numbers go."""

import argparse
import ast
import csv
import io
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "def main" in path.read_text())
NUMBERS = [{"name": "a", "seconds": {"ours": 1.5, "torch": 2.0}}, {"name": "b", "seconds": {"ours": 3.0}}]


@pytest.fixture
def report(benchmark, capsys):
    """Return a function of flags that returns what is printed."""

    def report(*flags):
        reporting = benchmark("reporting")
        parser = argparse.ArgumentParser()
        reporting.add_flags(parser)
        reporting.report(parser.parse_args(flags), {"rows": NUMBERS}, NUMBERS, lambda: print("the table"))
        return capsys.readouterr().out

    return report


def test_files_hold_the_numbers_beside_the_table(report, tmp_path):
    assert report() == "the table\n"
    assert report("--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")) == "the table\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"rows": NUMBERS}
    first, second = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert first == {"name": "a", "seconds.ours": "1.5", "seconds.torch": "2.0"}
    assert second == {"name": "b", "seconds.ours": "3.0", "seconds.torch": ""}


def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(report, tmp_path, capsys):
    for target in (tmp_path, tmp_path / "nowhere" / "a.json"):
        with pytest.raises(SystemExit):
            report("--json", str(target))
        assert "must be a file in a folder that is there, or -, got" in capsys.readouterr().err


def test_a_dash_prints_them_instead_of_the_table(report):
    assert json.loads(report("--json", "-")) == {"rows": NUMBERS}
    assert len(list(csv.reader(io.StringIO(report("--csv", "-"))))) == 3


def test_how_busy_the_machine_was_is_said(benchmark, tmp_path):
    statistics = tmp_path / "stat"
    # Hundredths of seconds: user, nice, system, idle, waiting, interrupts (two kinds), stolen.
    statistics.write_text("cpu 100 0 100 9000 0 0 0 0 0 0\ncpu0 1 2 3\n")
    machine = benchmark("reporting").Machine(statistics)
    assert machine.describe().endswith("and all others 0 s")
    statistics.write_text("cpu 2100 100 900 9900 500 100 100 7 0 0\n")
    # 32 seconds beside idleness, waiting, stolen time and the 2 from before, less what this test took itself.
    others = int(machine.describe().split()[-2])
    assert 28 <= others <= 31
    assert "all others" not in benchmark("reporting").Machine(tmp_path / "none").describe()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_reports_in_this_way(script):
    called = {
        node.func.id
        for node in ast.walk(ast.parse((BENCHMARKS / f"{script}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "add_flags" in called
    assert called & {"report", "write_report"}


@pytest.mark.parametrize("script", ["loop_overhead", "checkpoint"])
def test_what_needs_data_that_is_not_there_is_one_line(script, run, tmp_path):
    code, output, errors = run(script, "--recipe", "mnist-lenet5", "--data-dir", tmp_path)
    assert (code, output) == (2, "")
    assert "not prepared" in errors.splitlines()[-1]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("script", "flags"), [("loop_overhead", ["--steps", 2, "--slices", 1]), ("checkpoint", ["--repeats", 1])]
)
def test_the_digits_need_no_data(script, flags, run, tmp_path):
    code, output, _ = run(script, *flags, "--data-dir", tmp_path, "--json", "-")
    assert code == 0
    assert json.loads(output)["recipe"] == "digits-lenet5"
