"""Draw the curves of several runs in one picture, and print a table of what came out.

    python experiments/compare.py runs/lenet5-digits runs/resnet20-digits
    python experiments/compare.py runs/sweep/* --output outputs/sweep

Reads ``metrics.jsonl`` and ``result.json`` of runs of any script, also of those that are not complete. In the picture,
test lines are whole and training lines dashed. ``curves.png`` and the table, ``results.csv``, are in outputs/compare/,
or in ``--output``. Of complete runs whose flags differ in ``--seed`` alone, the mean and the standard deviation are
printed too. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from cnnjax.buckets import fetch
from cnnjax.places import local_path, output_file
from cnnjax.training import run_command
from cnnjax.training.run_config import FREE_FIELDS
from cnnjax.visualize import plot_runs
from cnnjax.visualize.measures import find_measure, less_is_better, measure_text
from cnnjax.writing import write_whole

# Runs that have a column each in the printed table.
SIDE_BY_SIDE = 4


class Compared(NamedTuple):
    """What is read of a run.

    Attributes:
      config: its flags.
      records: of ``metrics.jsonl``.
      result: of ``result.json``; empty if it is not complete.
    """

    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]


def read(workdir: Path) -> Compared:
    """Return a run; raises ValueError if the folder is none, or was not tested yet."""
    path = fetch(local_path(workdir, "workdir", buckets=True))
    if not (path / "config.json").is_file():
        raise ValueError(f"{workdir} is not a run: it has no config.json; give the --workdir of a training script")
    metrics = path / "metrics.jsonl"
    records = []
    # A run may be writing its last line.
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    if not any(record.get("kind") == "epoch" for record in records):
        raise ValueError(f"{workdir} was not tested yet; wait for the end of its first epoch")
    result = path / "result.json"
    config = json.loads((path / "config.json").read_text())["config"]
    return Compared(config, records, json.loads(result.read_text()) if result.exists() else {})


def names_of(workdirs: Sequence[Path]) -> list[str]:
    """Return what tells the folders apart: their paths, without what all of them begin with."""
    paths = [str(path.absolute()) for path in workdirs]
    if len(set(paths)) < len(paths):
        raise ValueError("each run can be given once")
    start = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, start) for path in paths]


def row(run: Compared) -> dict[str, Any]:
    """Return the numbers of a run: of its last epoch, and of the best by each measure."""
    epochs = [record for record in run.records if record.get("kind") == "epoch"]
    last = epochs[-1]
    found: dict[str, Any] = {
        "model": run.config["model"],
        "dataset": run.config["dataset"],
        "parameters": run.result.get("num_params"),
        "steps": last["step"],
        "epochs": last["epoch"],
        "complete": "yes" if run.result else "no",
    }
    for name in ("loss", find_measure(key.removeprefix("test_") for key in last)):
        key = f"test_{name}"
        values = [record[key] for record in epochs if record.get(key) is not None]
        if values:
            found[f"last {key}"] = values[-1]
            found[f"best {key}"] = (min if less_is_better(key) else max)(values)
        # Of several views of each image, at the end of a run.
        views = f"test_tta_{name}"
        if views in last:
            found[f"last {views}"] = last[views]
    return found | {"images per second": run.result.get("images_per_second"), "seconds": last.get("seconds")}


def text_of(name: str, value: Any) -> str:
    """Return a cell of the table."""
    if value is None:
        return ""
    if "test_" in name:
        return measure_text(name, value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def repeated(runs: Mapping[str, Compared]) -> list[list[str]]:
    """Return the names of complete runs that differ in the seed alone, and in what changes no result."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        flags = {flag: value for flag, value in run.config.items() if flag not in FREE_FIELDS and flag != "seed"}
        if run.result:
            found.setdefault(json.dumps(flags, sort_keys=True), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def spread(names: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return means and standard deviations of what runs reached last, in a line."""
    parts = []
    for column in (column for column in rows[names[0]] if column.startswith("last ")):
        values = [rows[name][column] for name in names]
        mean, deviation = (
            measure_text(column, number) for number in (statistics.mean(values), statistics.stdev(values))
        )
        parts.append(f"{column.removeprefix('last ').replace('_', ' ')} {mean} ± {deviation}")
    return f"{', '.join(names)} differ in the seed alone: {', '.join(parts)}"


def compare(given: argparse.Namespace) -> None:
    """Draw and print what the command line asks for."""
    names = names_of(given.workdirs)
    runs = {name: read(workdir) for name, workdir in zip(names, given.workdirs, strict=True)}
    rows = {name: row(run) for name, run in runs.items()}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    texts = {name: {column: text_of(column, cells.get(column)) for column in columns} for name, cells in rows.items()}
    # What all runs share needs no column.
    shown = [column for column in columns if len({cells[column] for cells in texts.values()}) > 1 or "best" in column]
    console = Console(highlight=False)
    shared = {column: texts[names[0]][column] for column in columns if column not in shown}
    console.print(", ".join(f"{column} {text}" for column, text in shared.items() if text), soft_wrap=True)
    # A column for each run, as long as these fit.
    if len(names) <= SIDE_BY_SIDE:
        table = Table("", *names, box=None, padding=(0, 2, 0, 0))
        for column in shown:
            table.add_row(column.replace("_", " "), *(cells[column] for cells in texts.values()))
    else:
        table = Table("run", *(column.replace(" ", "\n", 1).replace("_", " ") for column in shown), box=None)
        for name, cells in texts.items():
            table.add_row(name, *(cells[column] for column in shown))
    console.print(table)
    for group in repeated(runs):
        console.print(spread(group, rows), soft_wrap=True)
    folder = given.output
    picture = output_file(folder and folder / "curves.png", "compare", "curves.png")
    numbers = output_file(folder and folder / "results.csv", "compare", "results.csv")
    plot_runs({name: run.records for name, run in runs.items()}, picture)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["run", *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"run": name, **cells} for name, cells in rows.items())
    write_whole(numbers, text.getvalue())
    console.print(f"Files are {picture} and {numbers}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, help="folder to write to (default: outputs/compare)")
    given = parser.parse_args(arguments)
    return run_command(lambda: compare(given))


if __name__ == "__main__":
    sys.exit(main())
