"""Dropout, L1, L2 and early stopping for a fully connected network that has few images to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves, seed_dots
from cnnjax.claims.fitting import evaluate, fit_arrays, load_arrays
from cnnjax.models import create_model
from cnnjax.training import make_optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 100
# Dropout rate, and the factors of L1 and L2.
KINDS = {"none": (0.0, 0.0, 0.0), "dropout": (0.5, 0.0, 0.0), "L1": (0.0, 1e-3, 0.0), "L2": (0.0, 0.0, 3e-3)}
RECORD = 20
# Ends of the histogram's bins, in which the last one has all that is beyond.
BINS = np.linspace(0, 0.2, 41)
SMALL = 1e-3


def measure(setting: Setting) -> Numbers:
    """Train on the first images, with each kind of regularisation, and test as the networks learn."""
    data = load_arrays(setting)
    few = data.first(IMAGES)
    found: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    weights: dict[str, Any] = {}

    # Half of the test images choose where to stop, and the other half says what that was worth.
    def test(state: Any) -> tuple[float, float, float]:
        validation, _ = evaluate(state, data.test_images[::2], data.test_labels[::2])
        return validation, *evaluate(state, data.test_images[1::2], data.test_labels[1::2])

    for kind, (rate, l1, l2) in KINDS.items():
        model = create_model("mlp", num_classes=data.num_classes, features=(256, 256), dropout_rate=rate)
        tx = make_optimizer("sgd", 0.1, l1=l1, l2=l2)
        steps = RECORD if setting.quick else 400
        fits = fit_arrays(model, few, tx, setting.seeds, steps=steps, batch_size=50, record=RECORD, watch=test)
        found[kind] = {"train": fits.train_accuracy, "test": fits.test_accuracy}
        curves[kind] = [[loss for _, loss, _ in row] for row in fits.watched]
        if kind == "none":
            best = [min(row) for row in fits.watched]
            stopped = [RECORD * (row.index(each) + 1) for row, each in zip(fits.watched, best, strict=True)]
            _, losses, accuracies = map(list, zip(*best, strict=True))
            early = {"step": stopped, "test": accuracies, "loss": losses}
        magnitudes = [np.abs(np.asarray(state.params["stage1"]["dense1"]["kernel"])).ravel() for state in fits.states]
        weights[kind] = {
            "histogram": np.histogram(magnitudes[0].clip(max=BINS[-1]), BINS)[0].tolist(),
            "small": [100 * float((each < SMALL).mean()) for each in magnitudes],
        }
    return {
        "dataset": data.name,
        "images": len(few.train_labels),
        "accuracy": found,
        "test_loss": curves,
        "early": early,
        "weights": weights,
    }


def gap(rows: dict[str, list[float]]) -> list[float]:
    """Return how far the accuracy on test images is below that on training images, for each seed."""
    return (np.asarray(rows["train"]) - np.asarray(rows["test"])).tolist()


def judge(numbers: Numbers) -> Verdict:
    """Ask whether all three make the gap of accuracies clearly smaller, and test accuracy not clearly worse.

    And whether the test loss is clearly lower where it stops early than at the end.
    """
    accuracy = numbers["accuracy"]
    none = accuracy["none"]
    helps = [
        clearly_greater(gap(none), gap(row)) and not clearly_greater(none["test"], row["test"])
        for kind, row in accuracy.items()
        if kind != "none"
    ]
    early, at_end = numbers["early"], [row[-1] for row in numbers["test_loss"]["none"]]
    small = ", ".join(f"{kind} {shown(row['small'])} %" for kind, row in numbers["weights"].items())
    rows = "; ".join(
        f"{kind}: test {shown(row['test'])} %, {shown(gap(row))} points below training"
        for kind, row in accuracy.items()
    )
    return Verdict(
        all(helps) and clearly_greater(at_end, early["loss"]),
        f"{numbers['images']} images of {numbers['dataset']}, {rows}. Without any, but stopped early, after "
        f"{shown(early['step'], 0)} steps, the test loss is {shown(early['loss'], 3)} (accuracy "
        f"{shown(early['test'])} %), and {shown(at_end, 3)} at the end. Weights of the first layer below {SMALL:g}: "
        f"{small}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracies, the test loss against the step, and the weights' histogram of one seed."""
    left, middle, right = figure.subplots(1, 3)
    for split, colour in (("train", "tab:blue"), ("test", "tab:orange")):
        seed_dots(left, {kind: row[split] for kind, row in numbers["accuracy"].items()}, colour, split)
    frame(left, ylabel="accuracy (%)", title=f"{numbers['images']} images of {numbers['dataset']}")
    for place, (kind, rows) in enumerate(numbers["test_loss"].items()):
        seed_curves(middle, rows, RECORD, f"C{place}", kind)
        right.stairs(numbers["weights"][kind]["histogram"], BINS, color=f"C{place}", label=kind)
    frame(middle, xlabel="step", ylabel="test loss (nats)")
    label = f"|weight| of the first layer (last bin: all above {BINS[-2]:.2f})"
    frame(right, yscale="log", xlabel=label, ylabel="weights, one seed")


CLAIM = Claim(
    name="regularization",
    statement="With few images, dropout, L1 and L2 reduce overfitting, and so does stopping early.",
    source="Srivastava et al. 2014, Journal of Machine Learning Research 15, section 6 (dropout); "
    "Prechelt 1998, Neural Networks: Tricks of the Trade, LNCS 1524 (early stopping)",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(13.0, 4.0),
)
