"""What a ``config.json`` that this package wrote beside weights says of them, under "cnnjax"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnnjax.models import model_info
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.weights import WeightsInfo
from cnnjax.runs.images import ImageFormat


def own_weights(file: Path, source: str) -> WeightsInfo | None:
    """Return what a ``config.json`` of ours says, None if it is none: other libraries' have no such entry.

    Args:
      file: the ``config.json``.
      source: where the weights are.
    Raises:
      WeightsFileError: the entry is not what is written there.
    """
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsFileError(f"{source}: its config.json cannot be read ({error}); fetch it again") from error
    if not isinstance(config, dict) or "cnnjax" not in config:
        return None
    try:
        found = config["cnnjax"]
        model, fields, label_names = model_info(found["model"]), dict(found["fields"]), tuple(found["label_names"])
        images: Any = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found["images"].items()
        }
        return WeightsInfo(
            source=source,
            model=found["model"],
            num_classes=fields.pop("num_classes", model.num_classes),
            fields=fields,
            images=ImageFormat(**images),
            label_names=label_names,
            task=found["task"],
            naming=found["naming"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsFileError(
            f"{source}: its config.json is not what this package writes ({error!r}); restore it, or install a newer one"
        ) from error
