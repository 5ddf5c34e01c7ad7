"""Print the recipes of training runs: all of them, or what one consists of.

python -m cnnjax.training --recipes
python -m cnnjax.training timm-a2
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from cnnjax.training.flags import ConfigError
from cnnjax.training.recipes import RECIPES, Recipe, find_recipe


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="recipe to print in full")
    parser.add_argument("--recipes", action="store_true", help="list all recipes, as without arguments")
    parsed = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=parsed.recipe is not None)
    if parsed.recipe is None:
        console.print(_table())
        return 0
    try:
        recipe = find_recipe(parsed.recipe)
    except ConfigError as error:
        parser.error(str(error))
    for line in _lines(recipe):
        console.print(line, markup=False)
    return 0


def _table() -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("recipe", "network", "data set", "published", "reached here"):
        table.add_column(name, no_wrap=name == "recipe")
    for recipe in RECIPES.values():
        config = recipe.config
        table.add_row(recipe.name, config.model, config.dataset, recipe.published or "-", recipe.verified or "not run")
    return table


def _lines(recipe: Recipe) -> list[str]:
    """Describe a recipe, and list the flags that it stands for."""
    facts = {
        "source": recipe.source,
        "differs": recipe.differs,
        "published": recipe.published or "-",
        "reached here": recipe.verified or "not run",
    }
    lines = [recipe.name, *(f"  {name}: {value}" for name, value in facts.items())]
    for name, value in recipe.flags().items():
        if isinstance(value, bool):
            lines.append(f"  --{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            lines.append(f"  --{name.replace('_', '-')} {text}".rstrip())
    return lines


if __name__ == "__main__":
    sys.exit(main())
