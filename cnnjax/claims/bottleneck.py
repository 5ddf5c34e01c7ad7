"""Inception modules with and without 1x1 reductions: multiply-adds, module by module, beside the paper's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import flax.linen as nn

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict
from cnnjax.claims.drawing import frame
from cnnjax.models import create_model
from cnnjax.models.inception_v1 import TABLE1, figure2a, figure2b
from cnnjax.models.summary import count_macs
from cnnjax.nn import Conv
from cnnjax.nn.building import Branches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Table 1: size of the module's maps, channels that enter it, and its operations, 1e6. Those of 5a (and its parameters)
# are more than its widths multiply to.
PAPER = {
    "3a": (28, 192, 128),
    "3b": (28, 256, 304),
    "4a": (14, 480, 73),
    "4b": (14, 512, 88),
    "4c": (14, 512, 100),
    "4d": (14, 512, 119),
    "4e": (14, 528, 170),
    "5a": (7, 832, 54),
    "5b": (7, 832, 71),
}


def measure(setting: Setting) -> Numbers:
    """Count both kinds of module on the same inputs, and both networks whole."""
    modules = {}
    rows = [row for stage in TABLE1 for row in stage]
    for (name, (size, channels, published)), row in zip(PAPER.items(), rows, strict=True):
        macs = {}
        for kind, branches in (("reduced", figure2b), ("naive", figure2a)):
            module = Branches(branches(row, 5), partial(Conv, use_bias=False), None, nn.relu)
            macs[kind] = count_macs(module, (size, size, channels), train=False)
        modules[name] = {**macs, "published": published * 10**6}
    networks = {name: count_macs(create_model(name), (224, 224, 3)) for name in ("inception_v1", "inception_v1_naive")}
    return {"modules": modules, "networks": networks}


def judge(numbers: Numbers) -> Verdict:
    """Compare naive modules with reduced ones; say how far our counts are from the paper's."""
    modules = numbers["modules"]
    off = {name: 100 * (row["reduced"] / row["published"] - 1) for name, row in modules.items()}
    *close, far = sorted(off, key=lambda name: abs(off[name]))
    ratios = [row["naive"] / row["reduced"] for row in modules.values()]
    reduced, naive = (numbers["networks"][name] for name in ("inception_v1", "inception_v1_naive"))
    return Verdict(
        min(ratios) > 1,
        f"naive modules take {min(ratios):.1f} to {max(ratios):.1f} times the multiply-adds of reduced ones with the "
        f"same input, and the naive network, whose modules also widen, {naive / 1e9:.1f} billion instead of "
        f"{reduced / 1e9:.2f}; our counts are within {abs(off[close[-1]]):.1f} % of table 1, but for module {far} "
        f"({off[far]:+.1f} %; counts, no spread)",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the three counts of each module."""
    axes = figure.subplots()
    names = list(numbers["modules"])
    for place, (key, label) in enumerate(
        (("naive", "naive (figure 2a)"), ("reduced", "with 1x1 reductions (figure 2b)"), ("published", "table 1"))
    ):
        heights = [numbers["modules"][name][key] / 1e6 for name in names]
        axes.bar([x + 0.27 * (place - 1) for x in range(len(names))], heights, 0.27, label=label)
    axes.set_xticks(range(len(names)), names)
    label = "module, on the input that it has in the reduced network"
    frame(axes, xlabel=label, ylabel="multiply-adds, millions")


CLAIM = Claim(
    name="bottleneck",
    statement="1x1 convolutions before the wider ones cut the operations of an Inception module.",
    source="Szegedy et al. 2014, arXiv:1409.4842, section 4, figure 2 and table 1",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(8.0, 4.0),
)
