"""Max, average and L2 pooling in one small network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_dots
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.claims.networks import POOLS, SmallCNN

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def measure(setting: Setting) -> Numbers:
    """Train the network with each pooling."""
    data = load_arrays(setting)
    accuracy = {
        pool: fit_arrays(
            SmallCNN(data.num_classes, pool=pool),
            data,
            optax.adam(3e-3),
            setting.seeds,
            steps=10 if setting.quick else 300,
        ).test_accuracy
        for pool in POOLS
    }
    return {"dataset": data.name, "accuracy": accuracy}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether max pooling is clearly better than both others."""
    accuracy = numbers["accuracy"]
    return Verdict(
        all(clearly_greater(accuracy["max"], accuracy[other]) for other in ("average", "L2")),
        f"test accuracy on {numbers['dataset']}: {', '.join(f'{p} {shown(v)} %' for p, v in accuracy.items())}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the accuracy of each seed."""
    axes = figure.subplots()
    seed_dots(axes, numbers["accuracy"])
    title = f"{numbers['dataset']}: seeds, and their mean"
    frame(axes, legend=False, xlabel="pooling", ylabel="test accuracy (%)", title=title)


CLAIM = Claim(
    name="pooling",
    statement="Max pooling classifies better than average and L2 pooling.",
    source="Scherer, Müller and Behnke 2010, ICANN, section 4; Boureau, Ponce and LeCun 2010, ICML",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(5.5, 3.8),
)
