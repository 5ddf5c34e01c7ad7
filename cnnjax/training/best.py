"""The best test measure of a run so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnnjax.visualize.measures import less_is_better


@dataclasses.dataclass
class Best:
    """The epoch whose test was the best so far.

    Attributes:
      measure: what is compared, such as "accuracy"; of "loss", less is better.
      step: the step after which it was measured; None before the first test.
      value: the measure.
      epoch: its number, from 1; None as well in checkpoints of older versions.
      epochs_since: epochs after it.
    """

    measure: str
    step: int | None = None
    value: float | None = None
    epoch: int | None = None
    epochs_since: int = 0

    def see(self, value: float, step: int, epoch: int) -> None:
        """Compare the test after an epoch with the best one before."""
        less = less_is_better(self.measure)
        if self.value is None or (value < self.value if less else value > self.value):
            self.step, self.value, self.epoch, self.epochs_since = step, value, epoch, 0
        else:
            self.epochs_since += 1

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {
            "best_step": self.step,
            "best": self.value,
            "best_epoch": self.epoch,
            "epochs_since_best": self.epochs_since,
        }

    def set(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `to_json` gave, of this version or an older one."""
        self.step, self.value = saved["best_step"], saved["best"]
        self.epoch, self.epochs_since = saved.get("best_epoch"), saved.get("epochs_since_best", 0)
