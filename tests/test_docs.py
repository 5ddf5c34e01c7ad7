"""The programs that pages of ``docs`` consist of run as printed, and print what the pages say."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "transfer-learning.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PERCENTAGE = re.compile(r"\d+\.\d%")
# Processors round differently, and training magnifies that.
TOLERANCE = 4.0


@pytest.mark.exhaustive
def test_the_page_on_transfer_learning_is_a_program_that_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 10
    names: dict[str, object] = {}
    printed = ""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for language, text in blocks:
            if language == "python":
                assert printed == "", f"the page does not show this output:\n{printed}"
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile(text, str(PAGE), "exec"), names)
                printed = output.getvalue()
            else:
                assert PERCENTAGE.sub("%", printed).split() == PERCENTAGE.sub("%", text).split()
                said, found = ([float(value[:-1]) for value in PERCENTAGE.findall(shown)] for shown in (text, printed))
                assert found == pytest.approx(said, abs=TOLERANCE)
                printed = ""
    assert printed == ""
