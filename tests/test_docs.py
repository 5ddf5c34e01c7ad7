"""The programs that pages of ``docs`` consist of run as printed, and print what the pages say."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parents[1] / "docs"
RUN = Path(__file__).parent / "pretrained" / "data" / "run"
# Programs that download something are marked so behind the language, and are not run.
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PERCENTAGE = re.compile(r"\d+\.\d%")
# Processors round differently, and training magnifies that.
TOLERANCE = 4.0


def run_page(path):
    """Run the blocks of a page as one program, and compare what they print with what the page shows."""
    blocks = BLOCK.findall(path.read_text())
    names: dict[str, object] = {}
    printed = ""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for language, text in blocks:
            if language == "python":
                assert printed == "", f"the page does not show this output:\n{printed}"
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile(text, str(path), "exec"), names)
                printed = output.getvalue()
            else:
                assert PERCENTAGE.sub("%", printed).split() == PERCENTAGE.sub("%", text).split()
                said, found = ([float(value[:-1]) for value in PERCENTAGE.findall(shown)] for shown in (text, printed))
                assert found == pytest.approx(said, abs=TOLERANCE)
                printed = ""
    assert printed == ""
    return len(blocks)


@pytest.mark.exhaustive
def test_the_page_on_transfer_learning_is_a_program_that_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert run_page(DOCS / "transfer-learning.md") > 10


@pytest.mark.exhaustive
def test_the_page_on_seeing_inside_is_a_program(tmp_path, monkeypatch):
    shutil.copytree(RUN, tmp_path / "runs" / "lenet5-digits")
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "see-inside.md") == 5
    assert {path.name for path in tmp_path.glob("*.png")} == {"maps.png", "features.png", "network.png"}


def test_the_page_on_weights_is_a_program_that_prints_what_it_says():
    assert run_page(DOCS / "weights.md") == 6


def test_the_page_on_cifar10_is_a_program_that_prints_what_it_says():
    assert run_page(DOCS / "cifar10.md") == 2


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_the_page_on_exporting_is_a_program_that_prints_what_it_says(tmp_path, monkeypatch):
    shutil.copytree(RUN, tmp_path / "runs" / "lenet5-digits")
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "exporting.md") == 10


def test_what_the_page_on_speed_sets_is_there(monkeypatch):
    called = []
    for name in ("large_pages.use_large_pages", "training.compilation.use_compilation_cache"):
        monkeypatch.setattr(f"cnnjax.{name}", lambda name=name: called.append(name))
    for program in re.findall(r"^```python\n(.*?)^```$", (DOCS / "speed.md").read_text(), re.MULTILINE | re.DOTALL):
        exec(program, {})
    assert called == ["large_pages.use_large_pages", "training.compilation.use_compilation_cache"]
