"""Stopping a run between two steps when a signal asks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """A run that a signal has stopped, after its checkpoint was saved.

    Attributes:
      signal: its number; a process stopped by it exits with 128 + this number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number


@dataclasses.dataclass
class Stop:
    """The signal that asked the run to stop, 0 for none."""

    number: int = 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask for a stop after the step in progress; the second one acts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        # Signals reach the main thread only; whoever runs this elsewhere handles them.
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
