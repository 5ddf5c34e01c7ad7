"""What is left of a claim that was measured: a picture, a file of numbers, a line of a table."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax.claims.claim import Claim, Setting
from cnnjax.places import output_file
from cnnjax.visualize.canvas import new_figure, save_figure
from cnnjax.writing import write_json


def run_claim(claim: Claim, setting: Setting, folder: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Measure a claim, judge it, and write ``<name>.png`` and ``<name>.json``.

    Args:
      claim: see `cnnjax.claims.CLAIMS`.
      setting: how it is measured.
      folder: of both files; None: ``outputs/claims`` in the current folder.
    Returns:
      What the JSON file holds: name, statement, source, whether the claim holds, verdict, numbers, how long it took and
      how it was run.
    Raises:
      ValueError: a package that the claim needs is not installed.
    """
    if claim.missing:
        raise ValueError(f"{claim.name} needs {', '.join(claim.missing)}: pip install 'cnnjax[pretrained]'")
    start = time.perf_counter()
    numbers = claim.measure(setting)
    verdict = claim.judge(numbers)
    seconds = time.perf_counter() - start
    picture, file = (
        output_file(None if folder is None else Path(folder) / name, "claims", name)
        for name in (f"{claim.name}.png", f"{claim.name}.json")
    )
    figure = new_figure(*claim.size)
    claim.draw(numbers, figure)
    save_figure(figure, picture)
    record = {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "holds": verdict.holds,
        "verdict": str(verdict),
        "quick": setting.quick,
        "seeds": list(setting.seeds),
        "dataset": setting.dataset if claim.trains else None,
        "seconds": round(seconds, 1),
        "jax": jax.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {jax.default_backend()}",
        "numbers": numbers,
    }
    write_json(file, record)
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of what `run_claim` returned."""
    lines = ["| claim | statement | verdict | time |", "|---|---|---|--:|"]
    for record in records:
        statement, verdict = (record[key].replace("|", "\\|") for key in ("statement", "verdict"))
        quick = " (quick: too short to judge)" if record["quick"] else ""
        lines.append(f"| `{record['claim']}` | {statement} | {verdict}{quick} | {record['seconds']:.0f} s |")
    return "\n".join(lines) + "\n"
