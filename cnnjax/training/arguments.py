"""The command line of training: a recipe's values, which flags override."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cnnjax.pretrained.info import described
from cnnjax.training.classifier_flags import DRAWN
from cnnjax.training.config import OF_SCHEDULES, TrainConfig, unused_flags
from cnnjax.training.flags import ConfigError, parse
from cnnjax.training.optim import OPTIMIZERS, SCHEDULES
from cnnjax.training.recipes import find_recipe


def parse_config(
    arguments: Sequence[str] | None = None, description: str | None = None, config: type[TrainConfig] = TrainConfig
) -> TrainConfig:
    """Return the config of a command line: the recipe's defaults, overridden flag by flag.

    Without ``--model``, the network is that of ``--weights``, if they say which it is.

    Args:
      arguments: without the program's name; None for those of this process.
      description: shown by ``--help``.
      config: a `TrainConfig`, or one with other defaults, which are those of its own default recipe.
    Raises:
      ConfigError: an unknown recipe or an impossible value.
      WeightsFileError: published weights that do not exist, or whose network we do not have.
      SystemExit: an unknown flag or a value of another type (explained on stderr, exit code 2), or ``--help``.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = _given(arguments)
    flags = _defaults(config)
    if (name := given.get("recipe") or flags["recipe"]) != flags["recipe"]:
        recipe = vars(find_recipe(name).config)
        # What a run starts from is no part of a recipe.
        flags |= {flag: value for flag, value in recipe.items() if flag != "weights"}
    if (weights := given.get("weights", DRAWN)) not in (DRAWN, "") and "model" not in given:
        # A file that does not say it is of the recipe's network.
        flags["model"] = known.model if (known := described(weights)) is not None else flags["model"]
    found = parse(config, arguments, description, _without_unused(flags, given, _defaults(config)))
    # Values that are the defaults were not refused with the others.
    for name, why in unused_flags(vars(found)).items():
        if name in given:
            raise ConfigError(f"{why}: leave it out, got {getattr(found, name)}")
    return found


def _defaults(config: type[TrainConfig]) -> dict[str, Any]:
    """Return the defaults of all flags by name."""
    return {field.name: field.default for field in dataclasses.fields(config)}


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags of a command line by name, each with the word after it or an empty one; the last counts."""
    found: dict[str, str] = {}
    for flag, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if flag.startswith("--"):
            name, separator, value = flag.removeprefix("--").partition("=")
            found[name.replace("-", "_")] = value if separator else following
    return found


def _without_unused(
    flags: Mapping[str, Any], given: Mapping[str, str], defaults: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return a recipe's flags without what belongs to its schedule or optimizer where others are given."""
    chosen = {name: given.get(name, str(flags[name])) for name in ("schedule", "optimizer", "warmup_epochs")}
    if chosen["schedule"] not in SCHEDULES or chosen["optimizer"] not in OPTIMIZERS:
        return flags  # refused with what there is when all flags are read
    try:
        warmup_epochs = float(chosen["warmup_epochs"])
    except ValueError:
        return flags
    changes = {name: defaults[name] for name in unused_flags({**chosen, "warmup_epochs": warmup_epochs})}
    if chosen["schedule"] not in OF_SCHEDULES["decay_epochs"]:
        # Others need no flag that may still come.
        changes["schedule"] = chosen["schedule"]
    return {**flags, **changes}
