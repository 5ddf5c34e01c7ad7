"""Train a classifier from the command line.

    python experiments/train.py                              # LeNet-5 on the embedded handwritten digits
    python experiments/train.py --recipe mnist-lenet5
    python experiments/train.py --model resnet20 --dataset cifar10 --data-dir DIR --epochs 10

Several processes, each with its own devices (TPU pods and SLURM start them without these flags):

    python experiments/train.py --coordinator HOST:PORT --num-processes 2 --process-id 0   # and 1 on the other machine

The same command again resumes a run that was stopped. Exit codes: 0 the run is complete; 2 it cannot be run as
asked, with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) it was stopped and can be resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cnnjax.training import connect, fit, parse_config, run_command


def train(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line says, with the other processes of the run if there are any."""
    config = parse_config(arguments, __doc__)
    connect(config.coordinator, config.process_id, config.num_processes, config.coordinator_timeout)
    fit(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: train(arguments))


if __name__ == "__main__":
    sys.exit(main())
