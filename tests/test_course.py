"""The course: notebooks that run as they are, the page that leads to them, and their translations."""

import functools
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import pytest

import cnnjax
from cnnjax.claims import CLAIMS
from cnnjax.models import __main__ as models_program

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "docs" / "course"
NOTEBOOKS = sorted((COURSE / "notebooks").glob("*.md"))
PAGE = COURSE / "slides-to-code.md"
TRANSLATIONS = ("es", "pt")
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
HIDDEN = 'cellView="form" jupyter={"source_hidden": true} tags=["solution"]'


def cells_of(text):
    """Return the code cells of a notebook: what is said of each, and its code."""
    return [(options.strip(), code) for options, code in FENCE.findall(text)]


def prose_of(text):
    """Return a notebook's text between its code cells, without the header."""
    return FENCE.split(text.split("---\n", 2)[2])[::3]


def headings_of(text):
    """Return the headings outside code: level and words."""
    return [(len(marks), words) for marks, words in HEADING.findall(FENCE.sub("", text))]


def rows_of(page):
    """Return the rows of the page's tables, cell by cell."""
    lines = [line for line in page.splitlines() if line.startswith("| ") and "[" in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names_in(cell):
    return re.findall(r"`([^`]*)`", cell)


@functools.cache
def script_of(name):
    """Return a script of ``experiments`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = rows_of(PAGE.read_text(encoding="utf-8"))
COMMANDS = [names_in(row[5])[0] for row in ROWS]


def test_there_are_ten_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 11)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_end_in_three_exercises_with_hidden_solutions(path):
    text = path.read_text(encoding="utf-8")
    headings = headings_of(text)
    assert headings[0][0] == 1
    assert headings[0][1].startswith(f"{int(path.name[:2])}. ")
    assert [level for level, _ in headings].count(1) == 1
    assert headings[-4] == (2, "Exercises")
    assert [(level, words[:2]) for level, words in headings[-3:]] == [(3, "1."), (3, "2."), (3, "3.")]
    cells = cells_of(text)
    for options, code in cells:
        compile(code, path.name, "exec")
        assert options in ("", HIDDEN)
    hidden = [code for options, code in cells if options]
    assert hidden == [code for _, code in cells[-3:]]
    assert [code.splitlines()[0] for code in hidden] == [f"# @title Solution {number}" for number in (1, 2, 3)]
    # Every exercise is followed by its solution.
    exercises = text.split("\n### ")[1:]
    assert [len(cells_of(exercise)) for exercise in exercises] == [1, 1, 1]


@pytest.mark.parametrize("language", TRANSLATIONS)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_translations_of_notebooks_keep_step(path, language):
    english = path.read_text(encoding="utf-8")
    other = (COURSE / language / "notebooks" / path.name).read_text(encoding="utf-8")
    assert cells_of(other) == cells_of(english)
    assert [level for level, _ in headings_of(other)] == [level for level, _ in headings_of(english)]
    assert other.split("---\n", 2)[1] == english.split("---\n", 2)[1]
    for ours, theirs in zip(prose_of(english), prose_of(other), strict=True):
        # Text is translated, and names of the library in it stay.
        assert (ours.strip() == "") == (theirs.strip() == "")
        assert ours.strip() == "" or ours != theirs
        assert sorted(names_in(theirs)) == sorted(names_in(ours))
        assert len(theirs.strip().split("\n\n")) == len(ours.strip().split("\n\n"))


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translations_of_the_page_keep_step(language):
    other = (COURSE / language / PAGE.name).read_text(encoding="utf-8")
    levels = [[level for level, _ in headings_of(text)] for text in (other, PAGE.read_text(encoding="utf-8"))]
    assert levels[0] == levels[1]
    rows = rows_of(other)
    assert [row[1:] for row in rows] == [row[1:] for row in ROWS]
    same = [row[0] for row, ours in zip(rows, ROWS, strict=True) if row[0] == ours[0]]
    assert same == []


def resolve(name):
    """Return what a dotted name of the library stands for."""
    found = importlib.import_module("cnnjax")
    done = ["cnnjax"]
    for part in name.split(".")[1:]:
        done.append(part)
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(".".join(done))
    return found


def test_what_the_page_names_is_there():
    assert len(ROWS) >= 20
    for _, code, networks, claim, notebook, _ in ROWS:
        for name in names_in(code):
            assert resolve(name) is not None
        assert set(names_in(networks)) <= set(cnnjax.list_models())
        assert set(names_in(claim)) <= set(CLAIMS)
        assert (COURSE / re.search(r"\((.*)\)", notebook)[1]).exists()
    assert {re.search(r"\((.*)\)", row[4])[1].rpartition("/")[2] for row in ROWS} == {path.name for path in NOTEBOOKS}


def run_row(command, *more):
    """Run a row's command in this process, and return the exit code."""
    program, *arguments = shlex.split(command)[1:]
    if program == "-m":
        assert arguments[0] == "cnnjax.models"
        return models_program.main([*arguments[1:], *more])
    return script_of(Path(program).stem).main([*arguments, *more])


def chosen(start, names):
    """Return the commands that start so and end, or do not, in one of the names."""
    found = [command for command in COMMANDS if command.startswith(start)]
    return [command for command in found if (command.split()[-1] in names) == bool(names)]


CLAIM = "python experiments/claims.py"
COUNTED = ("mlp_weights", "transposed")
# Needs published weights.
TRANSFERRED = chosen(CLAIM, ("transfer",))
TRAINED = [command for command in chosen(CLAIM, ()) if command.split()[-1] not in (*COUNTED, "transfer")]
SMALL = ("lenet5", "alexnet", "conv_autoencoder")
LARGE = [command for command in chosen("python -m", ()) if command.split()[-1] not in SMALL]
EXPLAINED = chosen("python experiments/explain.py", ())
RUNS = chosen("python experiments/train.py", ())


@pytest.mark.parametrize("command", chosen("python -m", SMALL))
def test_networks_of_the_page_are_shown(command, capsys):
    assert run_row(command) == 0
    assert "multiply-adds" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", LARGE)
def test_larger_networks_of_the_page_are_shown(command, capsys):
    assert run_row(command) == 0
    assert "multiply-adds" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", chosen(CLAIM, COUNTED))
def test_counts_of_the_page_are_made(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_row(command) == 0
    assert "holds" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", TRAINED)
def test_claims_of_the_page_are_tried(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_row(command, "--quick") == 0
    assert command.split()[-1] in capsys.readouterr().out


@pytest.mark.pretrained
@pytest.mark.parametrize("command", TRANSFERRED)
def test_transfer_of_the_page_is_tried(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert run_row(command, "--quick") == 0
    assert "transfer: the claim" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", EXPLAINED)
def test_the_page_explains_a_run(command, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tests" / "pretrained" / "data" / "run", tmp_path / "runs" / "lenet5-digits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert run_row(command) == 0


def test_every_command_of_the_page_is_run():
    tried = [*chosen("python -m", SMALL), *LARGE, *chosen(CLAIM, COUNTED), *TRAINED, *TRANSFERRED, *EXPLAINED, *RUNS]
    assert sorted(tried) == sorted(COMMANDS)


@pytest.mark.exhaustive
def test_runs_of_the_page_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    # Shorter than what the page says; one process, whatever this one has computed before.
    shorter = ["--epochs", "1", "--train-examples", "192", "--test-examples", "64", "--num-processes", "1"]
    for command in RUNS:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            assert run_row(command, *shorter) == 0, command
    assert (tmp_path / "runs" / "lenet5-digits" / "result.json").exists()


def run_cells(path, folder):
    """Run a notebook's cells in a process of their own, as users compile them."""
    code = "\n".join(code for _, code in cells_of(path.read_text(encoding="utf-8")))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"MPLBACKEND": "agg", "TFDS_DATA_DIR": str(folder), "TMPDIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    done = run_cells(path, tmp_path)
    assert done.returncode == 0, done.stderr


def test_colab_installs_the_library_once_and_starts_anew(monkeypatch):
    done = []
    kernel = SimpleNamespace(do_shutdown=lambda restart: done.append(("restart", restart)))
    monkeypatch.setattr(subprocess, "run", lambda command, check: done.append((command[3], command[-1], check)))

    def run_first_cell():
        cell = script_of("notebooks").INSTALL.format(requirement="cnnjax==0.1.0")
        exec(cell, {"get_ipython": lambda: SimpleNamespace(kernel=kernel)})
        return done

    assert run_first_cell() == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert run_first_cell() == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="run all cells once more"):
        run_first_cell()
    assert done == [("install", "cnnjax==0.1.0", True), ("restart", True)]


@pytest.mark.extras
@pytest.mark.parametrize("language", ["en", *TRANSLATIONS])
def test_notebooks_are_built_for_jupyter_and_colab(language, tmp_path, capsys):
    import nbformat

    script = script_of("notebooks")
    assert script.main(["--language", language, "--output", str(tmp_path), "--install", "cnnjax==0.1.0"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.stem for path in paths] == [path.stem for path in NOTEBOOKS]
    for path, source in zip(paths, NOTEBOOKS, strict=True):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert "'cnnjax==0.1.0'" in code[0].source
        assert [cell.source + "\n" for cell in code[1:]] == [code for _, code in cells_of(source.read_text())]
        solutions = [cell for cell in code if "solution" in cell.metadata.get("tags", ())]
        assert [cell.metadata.jupyter.source_hidden for cell in solutions] == [True] * 3


@pytest.mark.extras
def test_the_first_notebook_runs_in_a_kernel(tmp_path, capsys):
    import nbformat
    from nbclient import NotebookClient

    assert script_of("notebooks").main(["--output", str(tmp_path)]) == 0
    notebook = nbformat.read(tmp_path / "01-convolution-by-hand.ipynb", 4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(shown) == 3
