"""Which examples to train on and which to test on: TFDS's language of splits, for every source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cnnjax.data.source import DataError, ExampleSource, Joined, Section, Task

# Share of the training examples that is held out where a set has no validation split: its last tenth.
VALIDATION_SHARE = 10
# Name of the one split of a set that has no splits, where nothing is held out of it.
WHOLE = "all"


@dataclasses.dataclass(frozen=True)
class SplitSet:
    """A data set before its splits are chosen.

    Attributes:
      splits: the stored splits by name, examples shuffled in each.
      The others are those of `cnnjax.data.ImageDataset`.
    """

    name: str
    version: str
    splits: Mapping[str, ExampleSource]
    label_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    task: Task = "classification"
    skipped: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class _SplitInfo:
    """What TFDS asks of a split to slice it."""

    num_examples: int

    @property
    def shard_lengths(self) -> Sequence[int]:
        return [self.num_examples]


def choose_splits(data: SplitSet, train: str = "train", test: str | None = None) -> tuple[ExampleSource, ExampleSource]:
    """Return the examples to train on and those to test on.

    Args:
      data: the set.
      train, test: splits as TFDS writes them: ``train``, ``train[:10%]``, ``train[:40000]``, ``train[-5000:]``,
        ``train+validation``. ``test`` of None is ``test``, or ``validation`` where there is no ``test``. ``validation``
        where there is none holds out the last tenth of ``train`` (at least one example), which is not trained on.
    Raises:
      DataError: no such split, a slice that is empty or not there.
    """
    if test is None:
        test = next((name for name in ("test", "validation") if name in data.splits), None)
        if test is None:
            raise DataError(
                f"data set {data.name!r} has splits {sorted(data.splits)}, none to test on: hold out the last tenth of "
                "train by --test-split validation, or say which part by --train-split and --test-split"
            )
    if test == "validation" and test not in data.splits and train == "train" and "train" in data.splits:
        source = data.splits["train"]
        kept = len(source) - max(len(source) // VALIDATION_SHARE, 1)
        if kept < 1:
            raise DataError(f"data set {data.name!r} has {len(source)} training examples, too few to hold one out")
        return Section(source, 0, kept), Section(source, kept, len(source))
    return _select(data, train), _select(data, test)


def _select(data: SplitSet, spec: str) -> ExampleSource:
    """Return the examples that ``spec`` names."""
    if spec in data.splits:
        return data.splits[spec]
    import tensorflow_datasets as tfds

    infos: dict[str, Any] = {name: _SplitInfo(len(source)) for name, source in data.splits.items()}
    try:
        instructions = tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
    except (ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(
            f"split {spec!r} of data set {data.name!r}: {reason}; it has "
            + ", ".join(f"{name} ({len(source)})" for name, source in sorted(data.splits.items()))
        ) from error
    parts: list[Section] = []
    for instruction in instructions:
        source = data.splits[instruction.splitname]
        start = instruction.from_ or 0
        stop = len(source) if instruction.to is None else instruction.to
        parts.append(Section(source, start, stop))
    if any(part.stop <= part.start for part in parts):
        raise DataError(f"split {spec!r} of data set {data.name!r} holds no examples; take a larger slice")
    return parts[0] if len(parts) == 1 else Joined(tuple(parts))
