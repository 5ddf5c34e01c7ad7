"""The version is the same wherever it is written."""

import re
import tomllib
from pathlib import Path

import cnnjax

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_everywhere():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == cnnjax.__version__
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == cnnjax.__version__
    newest = re.search(r"^## (\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == cnnjax.__version__
