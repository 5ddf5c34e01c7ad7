"""Tables of image paths with their classes, or with numbers to regress."""

from __future__ import annotations

import csv
import math
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax.data.files import LabelledFile, OnBadImage, hold_out, in_order, open_files, refuse_special
from cnnjax.data.source import DataError, Task
from cnnjax.data.splits import WHOLE, SplitSet
from cnnjax.places import local_path

# Between the classes of an image that has several.
SEPARATOR = "|"


def open_csv(path: str | os.PathLike[str], on_bad_image: OnBadImage = "error", *, to_train: bool = True) -> SplitSet:
    """Open a CSV file (UTF-8, commas, one line of column names first).

    Column ``path`` names the image files, relative to the folder of the CSV file. Then either a column ``label``: the
    image's class, or its classes with ``|`` between them (then all labels are 0 and 1 a class); or any other columns:
    finite numbers to regress. A column ``split`` may say ``train``, ``validation`` or ``test``; without it a fifth (of
    each class) is for testing, by a hash of the paths. Classes are numbered in the order of their names, numerically
    where all are whole numbers.

    Args:
      path: the CSV file.
      on_bad_image: see `cnnjax.data.files.open_files`. A bad label is an error always.
      to_train: False, for a network that is trained already, holds nothing out of a table without splits, and asks
        neither for two classes nor for rows to train on.
    Raises:
      DataError: the table is not like that, with the number of the line; or images that cannot be used.
    """
    file = local_path(path, "data_dir")
    rows, columns = _rows(file)
    targets = [column for column in columns if column not in ("path", "label", "split")]
    if ("label" in columns) == bool(targets):
        raise DataError(
            f"{str(file)!r} has columns {', '.join(columns)}; needed are 'path' and either 'label' or numbers"
        )
    task: Task
    labels: list[Any]
    if targets:
        task, names = "regression", targets
        labels = [tuple(_number(file, line, row, target) for target in targets) for line, row in rows]
    else:
        classes = [_classes(file, line, row["label"]) for line, row in rows]
        names = in_order(name for several in classes for name in several)
        if to_train and len(names) < 2:
            raise DataError(f"{str(file)!r} has one class, {names[0]!r}; needed are two or more")
        numbers = {name: number for number, name in enumerate(names)}
        if any(len(several) > 1 for several in classes):
            task = "multilabel"
            labels = [tuple(float(name in several) for name in names) for several in classes]
        else:
            task = "classification"
            _refuse_two_labels(file, rows, [several[0] for several in classes])
            labels = [numbers[several[0]] for several in classes]
    files = [LabelledFile(row["path"], label) for (_, row), label in zip(rows, labels, strict=True)]
    if "split" in columns:
        splits: dict[str, list[LabelledFile]] = {}
        for (line, row), labelled in zip(rows, files, strict=True):
            if row["split"] not in ("train", "validation", "test"):
                raise DataError(
                    f"line {line} of {str(file)!r}: split must be train, validation or test, got {row['split']!r}"
                )
            splits.setdefault(row["split"], []).append(labelled)
        if to_train and "train" not in splits:
            raise DataError(f"{str(file)!r} has no row whose split is train")
        if (
            to_train
            and task == "classification"
            and len(trained := {labelled.label for labelled in splits["train"]}) < 2
        ):
            raise DataError(
                f"{str(file)!r} has one class in the rows whose split is train, {names[trained.pop()]!r}; needed are "
                "two or more"
            )
    else:
        splits = hold_out(files) if to_train else {WHOLE: files}
    return open_files("csv", file.parent, splits, names, task, on_bad_image)


def _rows(file: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Return the rows by number of line, all cells filled, and the columns."""
    refuse_special(file)
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = []
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise DataError(f"line {line} of {str(file)!r} does not have {len(columns)} cells, one per column")
                cells = {column: cell.strip() for column, cell in row.items()}
                empty = [column for column, cell in cells.items() if not cell]
                if empty:
                    raise DataError(f"line {line} of {str(file)!r}: column {empty[0]!r} is empty")
                rows.append((line, cells))
    except OSError as error:
        raise DataError(f"CSV file {str(file)!r} cannot be read: {error.strerror or error}; see --data-dir") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{str(file)!r} is not a CSV file in UTF-8: {error}") from error
    if "path" not in columns or len(set(columns)) != len(columns) or not rows:
        raise DataError(
            f"{str(file)!r} needs a first line of different column names, 'path' among them, and rows; got columns "
            f"{', '.join(columns) or 'none'} and {len(rows)} rows"
        )
    return rows, columns


def _classes(file: Path, line: int, cell: str) -> list[str]:
    names = [unicodedata.normalize("NFC", name.strip()) for name in cell.split(SEPARATOR)]
    if not all(names) or len(set(names)) != len(names):
        raise DataError(
            f"line {line} of {str(file)!r}: label {cell!r} names no class between two {SEPARATOR!r}, or one twice"
        )
    return names


def _refuse_two_labels(file: Path, rows: Sequence[tuple[int, dict[str, str]]], names: Sequence[str]) -> None:
    """Raise DataError where one image is under two classes."""
    seen: dict[str, tuple[int, str]] = {}
    for (line, row), name in zip(rows, names, strict=True):
        # "./1.png" is "1.png".
        before, other = seen.setdefault(os.path.normpath(row["path"]), (line, name))
        if other != name:
            raise DataError(
                f"{row['path']!r} is {other!r} in line {before} of {str(file)!r} and {name!r} in line {line}; remove "
                f"one of the lines, or write {other + SEPARATOR + name!r} in one if it is both"
            )


def _number(file: Path, line: int, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"line {line} of {str(file)!r}: {column} must be a finite number, got {row[column]!r}")
    return value
