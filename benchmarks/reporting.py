"""Where a benchmark's numbers go: a table, and files of JSON and CSV that flags name, the same for every script.

How busy the machine was besides is said on stderr: numbers of a machine that does other work too are no one's but its.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.writing import write_whole

# In place of a file: standard output, which then holds nothing else.
STDOUT = "-"


class Machine:
    """What a machine does while something is measured; it begins to watch when it is made.

    Attributes:
      load: processes that ran or wanted to, on average over the minute before.
    """

    def __init__(self, statistics: Path = Path("/proc/stat")) -> None:
        self.load = os.getloadavg()[0]
        self._statistics = statistics
        self._started = time.perf_counter(), _own_seconds(), self._busy_seconds()

    def _busy_seconds(self) -> float | None:
        """Return the seconds that processors were not idle since the machine started; None where nothing tells."""
        if not self._statistics.exists():
            return None
        # user, nice, system, idle, waiting for disks, interrupts (two kinds), stolen; guests are in the first two.
        user, nice, system, _, _, *interrupts = map(int, self._statistics.read_text().split("\n", 1)[0].split()[1:8])
        return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")

    def describe(self) -> str:
        """Return the load at the start, and the seconds of processors that went here and elsewhere since."""
        started, own_before, busy_before = self._started
        seconds, own, busy = time.perf_counter() - started, _own_seconds() - own_before, self._busy_seconds()
        text = (
            f"{os.cpu_count()} processors, load {self.load:.2f} at the start; in {seconds:.0f} s this process took "
            f"{own:.0f} s of them"
        )
        if busy is None or busy_before is None:
            return text
        return f"{text}, and all others {max(busy - busy_before - own, 0):.0f} s"


@functools.cache
def machine() -> Machine:
    """Return what the machine did since this was first called."""
    return Machine()


def _own_seconds() -> float:
    """Return the processors' seconds of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` and ``--csv``, and watch the machine from now on."""
    machine()
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
    """Print the table, say how busy the machine was, and write the numbers where the flags say.

    Args:
      given: flags of `add_flags`.
      numbers: all that was measured, as JSON holds it.
      rows: the same as rows of a table; nested mappings become columns such as ``seconds.torch``.
      show: prints the table.
    """
    rows = list(rows)
    if shows_table(given):
        show()
    print(machine().describe(), file=sys.stderr)
    for target, text in _contents(given, numbers, rows):
        if target == STDOUT:
            print(text, end="")
    save(given, numbers, rows)


def shows_table(given: argparse.Namespace) -> bool:
    """Return whether standard output is for the table."""
    return STDOUT not in (given.json, given.csv)


def save(given: argparse.Namespace, numbers: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the files that the flags of `add_flags` name, each whole or not at all; see `report`."""
    for target, text in _contents(given, numbers, rows):
        if target == STDOUT:
            continue
        path = Path(target)
        if path.exists() and not path.is_file():  # A pipe, say.
            path.write_text(text)
        else:
            write_whole(path, text)


def _contents(given: argparse.Namespace, numbers: Any, rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yield what the flags name, and what goes there."""
    if given.json:
        yield given.json, json.dumps(numbers, indent=1) + "\n"
    if given.csv:
        yield given.csv, as_csv(rows)


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a column for every name that one of them has."""
    flat = [dict(_flat(row)) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def as_rate(value: float) -> str:
    """Return a number of things per second as tables show it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield names and values, those of nested mappings with the names of what they are in."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
