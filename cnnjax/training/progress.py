"""What a run shows while it works and when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

# Seconds between two lines where there is no terminal to draw a bar on.
LINE_INTERVAL = 10.0


class RunProgress:
    """A progress bar with epoch, rate, loss and time left; without a terminal, a line now and then.

    Args:
      console: where to.
      total: steps of the run.
      done: steps taken before.
      batch_size: images a step.
      epoch: the one that the run is in, as shown.
    """

    def __init__(self, console: Console, total: int, done: int, batch_size: int, epoch: str) -> None:
        self._console = console
        self._total = total
        self._first: int | None = None
        self._batch_size = batch_size
        self._epoch = epoch
        self._loss = "-"
        self._started = time.perf_counter()
        self._last_line = self._started
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} images/s  loss {task.fields[loss]}  left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, epoch=epoch, rate="-", loss="-")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Say that ``step`` steps have been handed to the device."""
        if self._first is None:
            # This step was compiled first, which says nothing about those to come.
            self._first, self._started = step, time.perf_counter()
        self._bar.update(self._task, completed=step)
        self._print_line(step)

    def report(self, step: int, epoch: str, loss: float) -> None:
        """Say what is known after ``step`` steps; ``loss`` is the epoch's mean so far."""
        self._epoch, self._loss = epoch, f"{loss:.4f}"
        self._bar.update(self._task, completed=step, epoch=epoch, rate=f"{self._rate(step):,.0f}", loss=self._loss)
        self._print_line(step)

    def _rate(self, step: int) -> float:
        """Return images a second since the first step was handed over."""
        return (step - (self._first or step)) * self._batch_size / max(time.perf_counter() - self._started, 1e-9)

    def _print_line(self, step: int) -> None:
        now = time.perf_counter()
        if self._console.is_terminal or now - self._last_line < LINE_INTERVAL or self._first in (None, step):
            return
        self._last_line = now
        left = (self._total - step) / (step - self._first) * (now - self._started)
        self._console.print(
            f"epoch {self._epoch}, step {step}/{self._total}: {self._rate(step):,.0f} images/s, loss {self._loss}, "
            f"{left:.0f} s left"
        )


def print_result(console: Console, result: Mapping[str, Any], directory: Path) -> None:
    """Print a short table of a run's result, and where its files are."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in result.items():
        # One number a class is for the file.
        if isinstance(value, list):
            continue
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif key.endswith("accuracy"):
            text = f"{100 * value:.2f} %"
        elif isinstance(value, float):
            text = f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(key.replace("_", " "), text)
    console.print(table)
    console.print(f"Files are in {directory}", soft_wrap=True)
