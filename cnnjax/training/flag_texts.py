"""What the texts of flags say that are more than a name or a number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from cnnjax.training.flags import ConfigError


def fields_of(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return values by name, of texts NAME=VALUE; a value is JSON, or else a text.

    Raises:
      ConfigError: a text of another form.
    """
    fields: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise ConfigError(f"{flag} must be NAME=VALUE, got {text!r}")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def factors_of(flag: str, texts: Sequence[str], expected: str, allowed: Callable[[float], bool]) -> dict[str, float]:
    """Return factors by pattern, of texts PATTERN=FACTOR.

    Raises:
      ConfigError: a text of another form, or a factor that is not ``allowed``; it says what is ``expected``.
    """
    found = {}
    for text in texts:
        pattern, separator, factor = text.rpartition("=")
        try:
            found[pattern] = float(factor)
        except ValueError:
            separator = ""
        if not separator or not allowed(found[pattern]):
            raise ConfigError(f"{flag} must be PATTERN=FACTOR with {expected}, got {text!r}")
    return found


def patterns_by_epoch(flag: str, texts: Sequence[str], example: str) -> dict[int, tuple[str, ...]]:
    """Return patterns by epoch, of texts EPOCH=PATTERN,...

    Raises:
      ConfigError: a text of another form; it shows the ``example``.
    """
    phases: dict[int, tuple[str, ...]] = {}
    for text in texts:
        epoch, separator, patterns = text.partition("=")
        if not separator or not epoch.isdecimal() or not all(patterns.split(",")):
            raise ConfigError(f"{flag} must be EPOCH=PATTERN,... with epochs from 0 (such as {example}), got {text!r}")
        phases[int(epoch)] = phases.get(int(epoch), ()) + tuple(patterns.split(","))
    return phases


def lookahead_of(text: str) -> tuple[int, float, float]:
    """Return steps, decay and power of "STEPS,DECAY,POWER".

    Raises:
      ConfigError: a text of another form, or values that `cnnjax.training.Lookahead` cannot take.
    """
    match = re.fullmatch(r"(\d+),([\d.]+),([\d.]+)", text)
    try:
        steps, decay, power = int(match[1]), float(match[2]), float(match[3])  # type: ignore[index]
    except (TypeError, ValueError):
        steps, decay, power = 0, 0.0, 0.0
    if steps < 1 or not 0 <= decay < 1:
        raise ConfigError(
            "lookahead must be STEPS,DECAY,POWER with at least 1 step and a decay from 0 to below 1, such as 5,0.5,0, "
            f"got {text!r}"
        )
    return steps, decay, power


def steps_of(text: str | None) -> tuple[int, int] | None:
    """Return the first and the last step of "A:B", steps counting from 1; None of None.

    Raises:
      ConfigError: anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"profile must be A:B, steps from 1 with A at most B, got {text!r}")
    return int(match[1]), int(match[2])
