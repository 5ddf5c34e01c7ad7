"""What is tried: ranges and choices for flags of a training run, and for fields of its network."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from cnnjax.training import ConfigError, TrainConfig


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What may be tried for a flag, or for a field of the network.

    Attributes:
      name: of the flag, or "model." and the field's.
      choices: values, if there are only these.
      low, high: the least and the greatest value, otherwise; whole numbers are drawn if both are.
      log: draw the logarithm evenly.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @classmethod
    def parse(cls, text: str) -> Parameter:
        """Return the parameter that ``text`` describes.

        Raises:
          ConfigError: it describes none.
        """
        name, separator, values = text.partition("=")
        fields = {field.name for field in dataclasses.fields(TrainConfig)}
        if not separator or not values or not (name in fields or re.fullmatch(r"model\.\w+", name)):
            raise ConfigError(
                f"a parameter must be NAME=LOW:HIGH[:log] or NAME=A|B|C, with a flag of train.py or model.FIELD as its "
                f"name, got {text!r}"
            )
        if match := re.fullmatch(r"([^:|]+):([^:|]+)(:log)?", values):
            low, high = (_value(match[group]) for group in (1, 2))
            if isinstance(low, int | float) and isinstance(high, int | float):
                if not low < high or (match[3] and low <= 0):
                    raise ConfigError(f"{name} must go from a lower to a higher value, above 0 for log, got {values!r}")
                return cls(name, (), low, high, match[3] is not None)
        return cls(name, tuple(_value(choice) for choice in values.split("|")))

    def suggest(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna has to try."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        draw = trial.suggest_int if isinstance(self.low, int) and isinstance(self.high, int) else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def default_search(config: TrainConfig) -> list[Parameter]:
    """Return learning rate, batch size and augmentation around those of a recipe."""
    rate, size = config.learning_rate, config.batch_size
    augment = " ".join(config.augment)
    return [
        Parameter("learning_rate", low=rate / 10, high=rate * 10, log=True),
        Parameter("batch_size", choices=tuple(max(round(size * factor), 1) for factor in (0.5, 1, 2))),
        Parameter("augment", choices=("none", augment) if augment else ("none", "crop:4", "crop:4 mirror")),
    ]


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a trial.

    Args:
      config: what all trials share.
      values: by the name of a `Parameter`.
    Raises:
      ConfigError: a value that cannot be.
    """
    flags: dict[str, Any] = {}
    fields = list(config.model_fields)
    for name, value in values.items():
        if name.startswith("model."):
            fields.append(f"{name.removeprefix('model.')}={json.dumps(value)}")
        elif isinstance(getattr(config, name), tuple):
            flags[name] = () if value == "none" else tuple(str(value).split())
        else:
            flags[name] = value
    return dataclasses.replace(config, model_fields=tuple(fields), **flags)
