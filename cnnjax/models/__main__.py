"""Print the table of all variants, or keep the one in a README up to date.

python -m cnnjax.models "resnet*"             # print
python -m cnnjax.models --write README.md     # replace what is between the marks
python -m cnnjax.models --check README.md     # fail if that differs
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

from cnnjax.models import VARIANTS, create_model, list_models
from cnnjax.models.summary import count_macs

BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"
HEAD = (
    "| variant | parameters | multiply-adds, 10<sup>9</sup> | input | reference result, top-1 % on ImageNet | paper |",
    "|---|--:|--:|---|---|---|",
)


def gmacs(name: str) -> float:
    """Return a variant's multiply-adds in 1e9: the published figure, or our count where there is none."""
    info = VARIANTS[name].info
    if info.gmacs is not None:
        return info.gmacs
    classes = {} if info.num_classes is None else {"num_classes": info.num_classes}
    return count_macs(create_model(name, **classes), (*info.input_size, info.channels)) / 1e9


def row(name: str) -> str:
    """Return a variant's line of the table."""
    info = VARIANTS[name].info
    result = info.result or ""
    if info.top1 is not None:
        result = f"{info.top1:.3f}" + (f" ({info.weights})" if info.weights else "")
    shape = f"{info.input_size[0]}x{info.input_size[1]}x{info.channels}"
    return f"| `{name}` | {info.num_params:,} | {gmacs(name):.3g} | {shape} | {result} | {info.paper} |"


def table(names: Iterable[str]) -> str:
    """Return the Markdown table of variants, in the order of families and of their papers' tables."""
    return "\n".join([*HEAD, *(row(name) for name in names)])


def replace(text: str, table: str) -> str:
    """Return a document with ``table`` between its marks.

    Raises:
      ValueError: the marks are not there, or not in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the table goes between the lines {BEGIN} and {END}, which are not in the file")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnjax.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="*", help="names to print, with * and ?")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", type=Path, metavar="FILE", help="put the table of all variants into the file")
    where.add_argument("--check", type=Path, metavar="FILE", help="fail if the file's table is another one")
    options = parser.parse_args(arguments)

    path = options.write or options.check
    if path is None:
        chosen = set(list_models(options.pattern))
        print(table(name for name in VARIANTS if name in chosen))
        return 0
    old = path.read_text(encoding="utf-8")
    new = replace(old, table(VARIANTS))
    if options.write:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(path), "the code"))
        print(f"\n{path} is out of date: python -m cnnjax.models --write {path}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
