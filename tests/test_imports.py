"""The direction of imports, and what ``import cnnjax`` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cnnjax"
# What each part may import of the others.
ALLOWED = {
    "nn": set(),
    "signal": {"nn"},
    "models": {"nn"},
    "data": set(),
    "explain": {"nn", "models"},
    "visualize": set(),
    "pretrained": {"nn", "models"},
    "restoration": {"models"},
    "training": {"nn", "models", "data", "visualize", "pretrained"},
    "explorer": {"nn", "models", "data", "explain", "pretrained", "training"},
    "finetune": {"nn", "models", "data", "training", "pretrained"},
}


@pytest.mark.parametrize(
    "heavy", ["tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "orbax", "grain", "scipy.signal", "skimage"]
)
def test_import_is_light(heavy):
    code = f"import sys, cnnjax; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def imported(path):
    """Return the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()])
def test_imports_go_one_way(part):
    for path in (PACKAGE / part).rglob("*.py"):
        for module in imported(path):
            assert not module.startswith(("experiments", "benchmarks", "tests")), path
            names = module.split(".")
            if names[0] == "cnnjax" and len(names) > 1:
                assert names[1] in ALLOWED[part] | {part}, f"{path} imports {module}"
