"""The flags that name a network with its weights, and what they mean, for all scripts that take one."""

from __future__ import annotations

import argparse
from pathlib import Path

from cnnjax.pretrained.drawn import drawn_network
from cnnjax.pretrained.source import from_source
from cnnjax.runs.network import LoadedNetwork
from cnnjax.runs.run import load_run


def add_network_flags(parser: argparse.ArgumentParser, *, drawn: bool = False) -> None:
    """Add --workdir, --which, --weights, --model and --num-classes to a parser; see `open_network`.

    Args:
      parser: of the script.
      drawn: whether --model alone stands for drawn weights.
    """
    weights = " (default with --model: drawn weights)" if drawn else ""
    parser.add_argument("--workdir", type=Path, help="a run of experiments/train.py")
    parser.add_argument("--which", default="best", help="best, last, or a step of the run (default: %(default)s)")
    parser.add_argument("--weights", help=f"published weights, a file, a folder or a run, see docs/weights.md{weights}")
    parser.add_argument(
        "--model", help="the network that they are of, see python -m cnnjax.models (default: what the weights say)"
    )
    parser.add_argument("--num-classes", type=int, help="of the weights (default: what they say)")


def check_network_flags(parser: argparse.ArgumentParser, given: argparse.Namespace, *, drawn: bool = False) -> None:
    """Refuse flags that do not name one network, as ``parser.error`` does.

    Args:
      parser, drawn: as for `add_network_flags`.
      given: what was parsed.
    """
    named = given.weights is not None or given.model is not None
    if given.workdir is not None and named:
        parser.error("give either --workdir or --weights")
    if given.num_classes is not None and not named:
        parser.error("--num-classes goes with --weights")
    if given.weights is None and given.model is not None and not drawn:
        parser.error("--model needs --weights, and most weights say by themselves which network they are of")


def open_network(given: argparse.Namespace, *tasks: str) -> LoadedNetwork:
    """Return the network that flags name.

    Args:
      given: what a parser with `add_network_flags` found.
      *tasks: what it may be for, see `cnnjax.runs.LoadedNetwork`.
    Raises:
      ValueError: there are no such weights, or they are for something else.
    """
    which = int(given.which) if given.which.isdecimal() else given.which
    if given.workdir is not None:
        network: LoadedNetwork = load_run(given.workdir, which)
    elif given.weights is not None:
        network = from_source(given.weights, name=given.model, which=which, num_classes=given.num_classes)
    else:
        network = drawn_network(given.model, given.num_classes)
    network.require_task(*tasks)
    return network
