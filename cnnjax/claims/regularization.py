"""Dropout and L2 on a fully connected network that has few images to learn from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.models import create_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 100
# Dropout rate, and factor of the weights that is added to their gradients.
KINDS = {"none": (0.0, 0.0), "dropout": (0.5, 0.0), "L2": (0.0, 3e-3)}


def measure(setting: Setting) -> Numbers:
    """Train on the first images, with each kind of regularisation."""
    data = load_arrays(setting)
    few = dataclasses.replace(data, train_images=data.train_images[:IMAGES], train_labels=data.train_labels[:IMAGES])
    found: dict[str, Any] = {}
    for kind, (rate, decay) in KINDS.items():
        model = create_model("mlp", num_classes=data.num_classes, features=(256, 256), dropout_rate=rate)
        tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1, momentum=0.9))
        fits = fit_arrays(model, few, tx, setting.seeds, steps=10 if setting.quick else 400, batch_size=50)
        found[kind] = {"train": fits.train_accuracy, "test": fits.test_accuracy}
    return {"dataset": data.name, "images": len(few.train_labels), "accuracy": found}


def gap(rows: dict[str, list[float]]) -> list[float]:
    """Return how far the accuracy on test images is below that on training images, for each seed."""
    return (np.asarray(rows["train"]) - np.asarray(rows["test"])).tolist()


def judge(numbers: Numbers) -> Verdict:
    """Ask whether both make the gap of accuracies clearly smaller, and test accuracy not clearly worse."""
    accuracy = numbers["accuracy"]
    none = accuracy["none"]
    helps = [
        clearly_greater(gap(none), gap(row)) and not clearly_greater(none["test"], row["test"])
        for row in (accuracy["dropout"], accuracy["L2"])
    ]
    rows = "; ".join(
        f"{kind}: test {shown(row['test'])} %, {shown(gap(row))} points below training"
        for kind, row in accuracy.items()
    )
    return Verdict(all(helps), f"{numbers['images']} images of {numbers['dataset']}, {rows}")


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw training and test accuracy of each seed."""
    axes = figure.subplots()
    for place, row in enumerate(numbers["accuracy"].values()):
        for split, colour in (("train", "tab:blue"), ("test", "tab:orange")):
            label = split if place == 0 else None
            axes.plot([place] * len(row[split]), row[split], "o", color=colour, alpha=0.7, label=label)
    axes.set_xticks(range(len(numbers["accuracy"])), list(numbers["accuracy"]))
    axes.set(ylabel="accuracy (%)", title=f"{numbers['images']} images of {numbers['dataset']}, each seed a dot")
    axes.grid(alpha=0.3)
    axes.legend()


CLAIM = Claim(
    name="regularization",
    statement="With few images, dropout and L2 reduce overfitting.",
    source="Srivastava et al. 2014, Journal of Machine Learning Research 15, section 6",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(5.5, 3.8),
)
