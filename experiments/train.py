"""Train a classifier from the command line.

    python experiments/train.py                              # LeNet-5 on the embedded handwritten digits
    python experiments/train.py --recipe mnist-lenet5
    python experiments/train.py --model resnet20 --dataset cifar10 --data-dir DIR --epochs 10

The same command again goes on with a run that was stopped. Exit codes: 0 the run is complete; 2 it cannot be run as
asked, with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) it was stopped and can be resumed.
"""

from __future__ import annotations

import sys

from rich.console import Console

from cnnjax.data import DataError
from cnnjax.training import CheckpointError, ConfigError, Interrupted, TrainingError, fit, parse_config


def main() -> int:
    """Run the command line and return the exit code."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        fit(parse_config(description=__doc__))
    except (ConfigError, DataError, CheckpointError, TrainingError) as error:
        errors.print(f"error: {error}", style="red", markup=False)
        return 2
    except Interrupted as stop:
        errors.print(f"{stop}; the same command again goes on from here", markup=False)
        return 128 + stop.signal
    return 0


if __name__ == "__main__":
    sys.exit(main())
