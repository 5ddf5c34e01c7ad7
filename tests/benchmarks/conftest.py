import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Return a function that imports a script, which finds its neighbours as when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def run(benchmark, monkeypatch, capsys):
    """Return a function that runs a script and returns its exit code, its output and its errors."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            code = benchmark(script).main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run
