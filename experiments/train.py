"""Train a classifier from the command line.

    python experiments/train.py                              # LeNet-5 on the embedded handwritten digits
    python experiments/train.py --recipe mnist-lenet5
    python experiments/train.py --model resnet20 --dataset cifar10 --data-dir DIR --epochs 10

The same command again goes on with a run that was stopped. Exit codes: 0 the run is complete; 2 it cannot be run as
asked, with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) it was stopped and can be resumed.
"""

from __future__ import annotations

import sys

from cnnjax.training import fit, parse_config, run_command


def main() -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: fit(parse_config(description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
