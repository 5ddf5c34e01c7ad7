"""What a run shows while it works and when it is done."""

from __future__ import annotations

import datetime
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from cnnjax.places import shown
from cnnjax.visualize.measures import measure_text

# Seconds between two lines where there is no terminal to draw a bar on.
LINE_INTERVAL = 10.0
# Seconds of training that a rate is taken over, at most and at least, and between two looks at what is done: a look
# costs a fraction of a millisecond.
WINDOW, LEAST_SECONDS, ASK_INTERVAL = 30.0, 1.0, 0.1


# Sums of loss and examples of the epoch so far, as arrays that outlive the next step (`jax.Array`, whose type does not
# have their `is_ready`).
Peek = Callable[[], Mapping[str, Any]]


class Pace:
    """How fast steps are finished, seen without waiting for them.

    The device takes steps that were handed to it later, and several may wait for it. So now and then the sums after a
    step are asked for, and looked at once they are there: that step is done then. The first step compiles, and tests
    and checkpoints come between others: neither counts.

    Attributes:
      first: number of the step that was compiled; None before.
      done: number of the last step that is known to be finished.
      worked: seconds of training proper since the first step, up to the last `pause`.
      loss: mean over the epoch's examples so far.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.done = 0
        self.worked = 0.0
        self.loss: float | None = None
        self._paused = 0.0
        # When this stretch of work began, or this pause.
        self._since = 0.0
        self._working = False
        # (seconds of work, step) of steps that were seen to be finished, and (step, sums) of those that may not be.
        self._seen: deque[tuple[float, int]] = deque()
        self._handed: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._asked = 0.0

    def hand(self, step: int, peek: Peek) -> None:
        """Say that all steps up to ``step`` were handed to the device; waits for the first time only."""
        if self.first is None:
            self._read(peek())
            self.first, self._working, self._since = step, True, time.perf_counter()
            self._see(step)
            return
        now = time.perf_counter()
        if now - self._asked >= ASK_INTERVAL:
            self._asked = now
            sums = peek()
            for array in sums.values():
                array.copy_to_host_async()
            self._handed.append((step, sums))
        done = None
        while self._handed and all(array.is_ready() for array in self._handed[0][1].values()):
            done = self._handed.popleft()
        if done is not None:
            self._read(done[1])
            self._see(done[0])

    def finish(self, step: int) -> None:
        """Say that all steps up to ``step`` are finished, as somebody has waited for them."""
        self._handed.clear()
        if self.first is not None and self._working:
            self._see(step)

    def pause(self, step: int) -> None:
        """Say that all steps up to ``step`` are finished, and that what comes now is no training."""
        if self.first is not None and self._working:
            self.finish(step)
            now = time.perf_counter()
            self.worked += now - self._since
            self._working, self._since = False, now

    def resume(self) -> None:
        """Say that training resumes."""
        if self.first is not None and not self._working:
            now = time.perf_counter()
            self._paused += now - self._since
            self._working, self._since = True, now

    @property
    def steps(self) -> int:
        """Steps finished after the first one."""
        return 0 if self.first is None else self.done - self.first

    @property
    def rate(self) -> float | None:
        """Steps a second of the last `WINDOW` seconds; None if too little was seen to tell."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end - start >= LEAST_SECONDS else None

    def left(self, total: int) -> float | None:
        """Return the seconds to step ``total``, at this rate and with pauses as so far; None: too little was seen."""
        if self.rate is None:
            return None
        return (total - self.done) * (1 / self.rate + self._paused / self.steps)

    def _see(self, step: int) -> None:
        self.done = step
        now = self.worked + time.perf_counter() - self._since
        if self._seen and self._seen[-1][1] == step:
            return
        self._seen.append((now, step))
        # One that is older stays, so that slow steps have a rate too.
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()

    def _read(self, sums: Mapping[str, jax.Array]) -> None:
        """Note the loss; waits for ``sums``."""
        count = int(np.asarray(sums["count"]))
        # There are no examples if all steps of the epoch were left out.
        self.loss = float(np.asarray(sums["loss_sum"])) / count if count else self.loss


class RunProgress:
    """A progress bar with epoch, rate, loss and time left; without a terminal, a line now and then.

    Args:
      console: where to.
      total: steps of the run.
      done: steps taken before.
      batch_size: images per step.
      epoch: the one that the run is in, as shown.

    Attributes:
      pace: of the steps since then.
    """

    def __init__(self, console: Console, total: int, done: int, batch_size: int, epoch: str) -> None:
        self.pace = Pace()
        self._console = console
        self._total = total
        self._batch_size = batch_size
        self._epoch = epoch
        self._last_line = time.perf_counter()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} images/s  loss {task.fields[loss]}  left {task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, epoch=epoch, rate="-", loss="-", left="-")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, step: int, peek: Peek) -> None:
        """Say that ``step`` steps have been handed to the device; waits for the first of this process.

        Args:
          step: how many.
          peek: returns ``loss_sum`` and ``count`` after them, of the epoch so far.
        """
        self.pace.hand(step, peek)
        self._show()

    def report(self, step: int, epoch: str, loss: float) -> None:
        """Say what is known after ``step`` steps, which are finished; ``loss`` is the epoch's mean so far."""
        self.pace.finish(step)
        self.pace.loss, self._epoch = loss, epoch
        self._show()

    def _show(self) -> None:
        pace = self.pace
        rate, left = pace.rate, pace.left(self._total)
        loss = "-" if pace.loss is None else f"{pace.loss:.4f}"
        images = "-" if rate is None else _plain(rate * self._batch_size)
        if self._console.is_terminal:
            text = "-" if left is None else str(datetime.timedelta(seconds=round(left)))
            self._bar.update(self._task, completed=pace.done, epoch=self._epoch, rate=images, loss=loss, left=text)
            return
        now = time.perf_counter()
        if left is None or now - self._last_line < LINE_INTERVAL:
            return
        self._last_line = now
        self._console.print(
            f"epoch {self._epoch}, step {pace.done}/{self._total}: {images} images/s, loss {loss}, {left:.0f} s left"
        )


def _plain(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def print_result(console: Console, result: Mapping[str, Any], directory: Path) -> None:
    """Print a short table of a run's result, and where its files are."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in result.items():
        # One number a class is for the file.
        if isinstance(value, list):
            continue
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, float):
            text = measure_text(key, value)
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(key.replace("_", " "), text)
    console.print(table)
    console.print(f"Files are in {shown(directory)}", soft_wrap=True)
