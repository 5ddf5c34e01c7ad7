"""The flags that name a network with its weights, and what they mean, for all scripts that take one."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import ClassVar

from cnnjax.models.views import VIEWS
from cnnjax.pretrained.drawn import drawn_network
from cnnjax.pretrained.source import from_source
from cnnjax.runs.network import LoadedNetwork
from cnnjax.runs.run import load_run

ENTRY = (
    "Which of several networks in the file the weights are, such as model_ema or encoder_k. By default, it is the only "
    "one, or the plain one beside moving averages."
)
CHANNELS = (
    "The number of channels of the images, where it is not that of the weights. The first kernel is summed over its "
    "channels for 1, and repeated or cut off for others, as timm does."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsFlags:
    """How --weights are read, for scripts whose flags are the fields of a config."""

    title: ClassVar[str] = "network"

    entry: str | None = dataclasses.field(default=None, metadata={"help": ENTRY})
    channels: int | None = dataclasses.field(default=None, metadata={"help": CHANNELS})


def add_network_flags(parser: argparse.ArgumentParser, *, drawn: bool = False) -> None:
    """Add --workdir, --which, --weights, --model, --num-classes, --entry and --channels; see `open_network`.

    Args:
      parser: of the script.
      drawn: whether --model alone stands for drawn weights.
    """
    weights = " With --model alone, the weights are drawn." if drawn else ""
    parser.add_argument("--workdir", type=Path, help="The folder of a run of experiments/train.py.")
    parser.add_argument(
        "--which",
        default="best",
        help="The checkpoint of the run: best, last, or the number of a step. The default is %(default)s.",
    )
    parser.add_argument(
        "--weights",
        help=f"Published weights, a file, a folder or a run; docs/weights.md shows what this may be.{weights}",
    )
    parser.add_argument(
        "--model",
        help="The network that the weights are of, one of those that python -m cnnjax.models lists. By default, it is "
        "what the weights say.",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        help="The number of classes of the weights. By default, it is what the weights say, or the published number.",
    )
    parser.add_argument("--entry", help=ENTRY)
    parser.add_argument("--channels", type=int, help=CHANNELS)


def add_views_flag(parser: argparse.ArgumentParser) -> None:
    """Add --test-time-augmentation to a parser; see `cnnjax.models.views.over_views`."""
    parser.add_argument(
        "--test-time-augmentation",
        choices=VIEWS,
        default="none",
        help="average outputs over each image and its mirror image, or over these and shifted ones too (default: none)",
    )


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
    for flag in ("entry", "channels"):
        if getattr(given, flag) is not None and given.weights is None:
            parser.error(f"--{flag} goes with --weights")
    for flag, least in (("num_classes", 0), ("channels", 1)):
        if (value := getattr(given, flag)) is not None and value < least:
            parser.error(f"--{flag.replace('_', '-')} must be at least {least}, got {value}")
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
        network = from_source(
            given.weights,
            name=given.model,
            which=which,
            num_classes=given.num_classes,
            entry=given.entry,
            channels=given.channels,
        )
    else:
        network = drawn_network(given.model, given.num_classes)
    network.require_task(*tasks)
    return network
