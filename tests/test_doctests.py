"""The examples in docstrings give what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cnnjax"
# What cannot run here is marked in the docstring itself.
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if any(">>> " in line and "doctest: +SKIP" not in line for line in path.read_text().splitlines())
)


def examples(path):
    """Yield the docstrings with examples; from the source, since doctest overlooks those of cached properties."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    names = {"cnnjax": importlib.import_module("cnnjax"), **vars(importlib.import_module(name))}
    parser = doctest.DocTestParser()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            found = parser.get_doctest(text, dict(names), f"{name}.{getattr(node, 'name', '')}", str(path), 0)
            if found.examples:
                yield found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples(path):
    runner = doctest.DocTestRunner()
    for found in examples(path):
        runner.run(found)
    failed, tried = runner.summarize()
    assert tried > 0
    assert failed == 0
