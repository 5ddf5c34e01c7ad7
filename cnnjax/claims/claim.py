"""What a claim is, on what it is measured, and by which rule numbers decide about it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What an experiment measured: names to numbers, texts, lists and dictionaries of these, as JSON holds them.
Numbers = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a claim is measured.

    Attributes:
      quick: so short that it shows that the experiment runs, and not what it finds.
      seeds: of initial values, orders and draws; one repetition each.
      dataset, data_dir: of claims that train, see `cnnjax.data.load_dataset`; None: the embedded digits.
    Raises:
      ValueError: fewer than 2 seeds, which have no spread.
    """

    quick: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    dataset: str | None = None
    data_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:
            raise ValueError(f"seeds must be at least 2, so that there is a spread, got {len(self.seeds)}")


class Verdict(NamedTuple):
    """What numbers say about a claim."""

    holds: bool
    reason: str
    """The numbers that decide, with their spread over seeds."""

    def __str__(self) -> str:
        """Return the verdict as a sentence."""
        return f"{'the claim holds here' if self.holds else 'the claim does not hold here'}: {self.reason}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a lecture on CNNs, with the experiment that tests it.

    Attributes:
      name: of its module.
      statement: as a lecturer says it.
      source: authors, year, arXiv id, section.
      measure: runs the experiment.
      judge: decides from what was measured alone.
      draw: draws what was measured.
      trains: whether a data set can be chosen.
      size: width and height of the picture, inches.
      packages: that the experiment imports or reads beyond the library's own, of the extra ``pretrained``.
    """

    name: str
    statement: str
    source: str
    measure: Callable[[Setting], Numbers]
    judge: Callable[[Numbers], Verdict]
    draw: Callable[[Numbers, Figure], None]
    trains: bool = False
    size: tuple[float, float] = (6.4, 4.0)
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that the experiment needs and that are not installed."""
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of one number over seeds."""
    return statistics.stdev(values)


def shown(values: Sequence[float], digits: int = 1) -> str:
    """Return mean and standard deviation over seeds as text."""
    return f"{statistics.fmean(values):.{digits}f} ± {spread(values):.{digits}f}"


def clearly_greater(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether the means differ by more than the standard deviation, over seeds, of their difference.

    That deviation is the root of the sum of both variances. With three seeds it is a weak test, which chance passes
    about once in twelve times; it keeps verdicts from resting on less than the spread.
    """
    difference = statistics.fmean(first) - statistics.fmean(second)
    return difference > (spread(first) ** 2 + spread(second) ** 2) ** 0.5
