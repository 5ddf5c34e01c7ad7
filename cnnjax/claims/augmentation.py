"""Augmentation that leaves the digit a digit, and augmentation that does not, with few images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN
from cnnjax.data.augment import augment, parse_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# See docs/augmentation.md.
KINDS = {"none": (), "shifted and turned": ("crop:1", "rotate:10"), "flipped": ("mirror", "vertical-mirror")}
COUNTS = (50, 200, 1000)


def measure(setting: Setting) -> Numbers:
    """Train on the first images, several numbers of them, with each kind of augmentation."""
    data = load_arrays(setting)
    accuracy: dict[str, dict[str, list[float]]] = {}
    for kind, specs in KINDS.items():
        operations = parse_all(specs)

        def preprocess(batch: Any, keys: jax.Array | None, operations: Any = operations) -> Any:
            return batch if keys is None or not operations else augment(batch, keys, operations)

        accuracy[kind] = {}
        for count in COUNTS[:1] if setting.quick else COUNTS:
            few = dataclasses.replace(
                data, train_images=data.train_images[:count], train_labels=data.train_labels[:count]
            )
            fits = fit_arrays(
                SmallCNN(data.num_classes),
                few,
                optax.adam(3e-3),
                setting.seeds,
                steps=10 if setting.quick else 400,
                batch_size=50,
                preprocess=preprocess,
            )
            accuracy[kind][str(len(few.train_labels))] = fits.test_accuracy
    return {"dataset": data.name, "accuracy": accuracy}


def judge(numbers: Numbers) -> Verdict:
    """Ask of the fewest images whether the first kind clearly helps, and of any number whether flips clearly hurt."""
    none, good, bad = (numbers["accuracy"][kind] for kind in KINDS)
    fewest = min(none, key=int)
    hurt = [count for count in none if clearly_greater(none[count], bad[count])]
    rows = "; ".join(
        f"{count} images {shown(none[count])} % without, {shown(good[count])} % shifted and turned, "
        f"{shown(bad[count])} % flipped"
        for count in none
    )
    return Verdict(
        clearly_greater(good[fewest], none[fewest]) and bool(hurt), f"test accuracy on {numbers['dataset']}: {rows}"
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracy against the number of images."""
    axes = figure.subplots()
    for place, (kind, rows) in enumerate(numbers["accuracy"].items()):
        for count, values in rows.items():
            axes.plot([int(count)] * len(values), values, "o", color=f"C{place}", alpha=0.5)
        means = [sum(values) / len(values) for values in rows.values()]
        axes.plot([int(count) for count in rows], means, color=f"C{place}", label=kind)
    axes.set(xscale="log", xlabel="training images", ylabel="test accuracy (%)", title=numbers["dataset"])
    axes.grid(alpha=0.3)
    axes.legend()


CLAIM = Claim(
    name="augmentation",
    statement="Augmentation helps with few images, and hurts where it changes what the image shows: flipped digits.",
    source="Simard, Steinkraus and Platt 2003, ICDAR, section 2; Shorten and Khoshgoftaar 2019, Journal of Big Data 6",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(6.0, 4.0),
)
