"""The reference of the site has every public name, and nothing that is none."""

import ast
import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

from cnnjax.models import VARIANTS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cnnjax"
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def exporting_modules():
    """Return the names of all modules of the package that have ``__all__``."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        targets = (target for node in ast.parse(path.read_text()).body for target in getattr(node, "targets", ()))
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append(name.removesuffix(".__init__"))
    return found


def resolve(path):
    """Return what a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_has_a_place_in_the_reference():
    listed = [path for page in (ROOT / "docs/api").glob("*.md") for path in DIRECTIVE.findall(page.read_text())]
    assert len(listed) == len(set(listed))
    described = {id(resolve(path)) for path in listed}
    modules = exporting_modules()
    public = {f"{module}.{name}" for module in modules for name in importlib.import_module(module).__all__}
    missing = {
        path
        for path in public - set(listed)
        if not (isinstance(resolve(path), ModuleType) or path == "cnnjax.__version__" or id(resolve(path)) in described)
    }
    assert sorted(missing) == []
    assert sorted(set(listed) - public) == []


def test_every_family_has_an_idea_for_its_page():
    families = tomllib.loads((ROOT / "docs/networks/families.toml").read_text())
    assert set(families) == {variant.info.family for variant in VARIANTS.values()}
    for known in families.values():
        assert set(known) == {"title", "idea", "diagram"}


def test_the_table_of_networks_names_every_variant():
    rows = re.findall(r"^\| `([^`]+)` \| ([\d,]+) \|", (ROOT / "docs/networks.md").read_text(), re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in rows} == {
        name: variant.info.num_params for name, variant in VARIANTS.items()
    }
