"""Where a benchmark's numbers go: a table, and files of JSON and CSV that flags name, the same for every script."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# In place of a file: standard output, which then holds nothing else.
STDOUT = "-"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` and ``--csv``."""
    for name in ("json", "csv"):
        text = f"also write the numbers to this file, as {name.upper()}; {STDOUT}: print them instead of the table"
        parser.add_argument(f"--{name}", metavar="FILE", type=_writable, help=text)


def _writable(text: str) -> str:
    """Read the name of a file that can be written, which is better known before hours of measuring."""
    path = Path(text)
    if text != STDOUT and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise argparse.ArgumentTypeError(f"must be a file in a folder that is there, or {STDOUT}, got {text!r}")
    return text


def report(
    given: argparse.Namespace, numbers: Any, rows: Iterable[Mapping[str, Any]], show: Callable[[], object]
) -> None:
    """Print the table, and write the numbers where the flags say.

    Args:
      given: flags of `add_flags`.
      numbers: all that was measured, as JSON holds it.
      rows: the same as rows of a table; nested mappings become columns such as ``seconds.torch``.
      show: prints the table.
    """
    contents: dict[tuple[str, str], str] = {}
    if given.json:
        contents[given.json, "json"] = json.dumps(numbers, indent=1) + "\n"
    if given.csv:
        contents[given.csv, "csv"] = as_csv(rows)
    if STDOUT not in (given.json, given.csv):
        show()
    for (target, _), text in contents.items():
        if target == STDOUT:
            print(text, end="")
        else:
            Path(target).write_text(text)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a column for every name that one of them has."""
    flat = [dict(_flat(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield names and values, those of nested mappings with the names of what they are in."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
