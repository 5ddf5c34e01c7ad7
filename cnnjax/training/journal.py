"""What a run leaves of what it measured while it trains: records, a line for each epoch, and curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from cnnjax.runs.directory import RunDirectory
from cnnjax.training.best import Best
from cnnjax.training.loggers import Logger
from cnnjax.visualize.curves import plot_curves
from cnnjax.visualize.measures import find_measure, measure_text

# Seconds of training before the first picture, and how many times longer than drawing a picture the training between
# two of them has to be: pictures take a twentieth of the time at most.
FIRST_PICTURE, TIMES_LONGER = 10.0, 20.0


class Journal:
    """Writes down what a run measures: in ``metrics.jsonl``, to loggers, on the console and in ``curves.png``.

    Args:
      directory: of the run; None in a process that writes nothing.
      console: where lines are shown.
      title: of the picture.
      rates: returns (step, learning rate) of steps up to a given one.

    Attributes:
      loggers: functions that are called with each record.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        console: Console,
        title: str,
        rates: Callable[[int], Sequence[tuple[int, float]]],
    ) -> None:
        self.loggers: Sequence[Logger] = ()
        self._directory = directory
        self._console = console
        self._title = title
        self._rates = rates
        # When the picture may be drawn next, and the step of the newest epoch that it lacks.
        self._next_picture = time.perf_counter() + FIRST_PICTURE
        self._undrawn: int | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record to ``metrics.jsonl``, and call the loggers with it."""
        if self._directory is None:
            return
        try:
            self._directory.append(record)
        except OSError as error:
            self._console.print(
                f"[yellow]could not write to {self._directory.metrics_file} ({error.strerror}); will be tried again"
            )
        for logger in self.loggers:
            logger(record)

    def end_epoch(self, record: Mapping[str, Any], best: Best, epoch: str, seconds: float) -> None:
        """Write the record of an epoch, show its line, and draw the curves if training has taken long enough.

        Args:
          record: with the means of training and test, as ``train_loss``.
          best: of the run so far.
          epoch: its number among all, as shown.
          seconds: what the epoch took.
        """
        self.write(record)
        self._console.print(epoch_line(record, best, epoch, seconds), markup=False, highlight=False, soft_wrap=True)
        self._undrawn = record["step"]
        if time.perf_counter() >= self._next_picture:
            self.draw()

    def draw(self, step: int | None = None) -> None:
        """Draw the curves up to a step; None: if they lack an epoch, up to that."""
        step = self._undrawn if step is None else step
        if self._directory is None or step is None:
            return
        began = time.perf_counter()
        try:
            rates = self._rates(step)
            plot_curves(self._directory.records(), self._directory.curves_file, self._title, rates)
        except OSError as error:
            self._console.print(f"[yellow]could not write {self._directory.curves_file} ({error.strerror})")
        ended = time.perf_counter()
        self._undrawn, self._next_picture = None, ended + TIMES_LONGER * (ended - began)


def epoch_line(record: Mapping[str, Any], best: Best, epoch: str, seconds: float) -> str:
    """Return what an epoch measured, in one line.

    Args:
      record: with the means of training and test, as ``train_loss``.
      best: of the run so far.
      epoch: its number among all, as shown.
      seconds: what it took.
    """
    measure = find_measure(name.removeprefix("test_") for name in record if name.startswith("test_"))
    parts = []
    for split in ("train", "test"):
        names = [name for name in ("loss", measure) if f"{split}_{name}" in record]
        parts.append(f"{split} " + ", ".join(_named(str(name), record[f"{split}_{name}"]) for name in names))
    if best.value is not None:
        when = "" if best.epoch is None else f" in epoch {best.epoch}"
        parts.append(f"best {_named(best.measure, best.value)}{when}")
    return f"epoch {epoch}: {'; '.join(parts)}; {seconds:.3g} s"


def _named(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {measure_text(name, value)}"
