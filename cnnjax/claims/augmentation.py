"""Augmentation that leaves the digit a digit, and augmentation that does not, with few images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_points
from cnnjax.claims.fitting import Arrays, fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN
from cnnjax.data.augment import augment, parse_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# See docs/augmentation.md.
KINDS = {"none": (), "shifted and turned": ("crop:1", "rotate:10"), "flipped": ("mirror", "vertical-mirror")}
# The same operations as the second kind, drawn before training, once for each of so many copies.
OFFLINE, COPIES = "shifted and turned, offline", 10
COUNTS = (50, 200, 1000)


def measure(setting: Setting) -> Numbers:
    """Train on the first images, several numbers of them, with each kind of augmentation."""
    data = load_arrays(setting)
    accuracy: dict[str, dict[str, list[float]]] = {}
    model, tx = SmallCNN(data.num_classes), optax.adam(3e-3)
    options: Any = {"steps": 10 if setting.quick else 400, "batch_size": 50}
    for kind, specs in KINDS.items():
        operations = parse_all(specs)

        def preprocess(batch: Any, keys: jax.Array | None, operations: Any = operations) -> Any:
            return batch if keys is None or not operations else augment(batch, keys, operations)

        accuracy[kind] = {}
        for count in COUNTS[:1] if setting.quick else COUNTS:
            few = data.first(count)
            fits = fit_arrays(model, few, tx, setting.seeds, preprocess=preprocess, **options)
            accuracy[kind][str(len(few.train_labels))] = fits.test_accuracy
    accuracy[OFFLINE] = {
        count: fit_arrays(model, copied(data.first(int(count))), tx, setting.seeds, **options).test_accuracy
        for count in accuracy["none"]
    }
    return {"dataset": data.name, "accuracy": accuracy}


def copied(data: Arrays) -> Arrays:
    """Return the set with copies of each training image, each shifted and turned once."""
    places = np.tile(np.arange(len(data.train_labels)), COPIES)
    batch = {"image": jnp.asarray(data.train_images[places]), "label": jnp.asarray(data.train_labels[places])}
    operations = parse_all(KINDS["shifted and turned"])
    keys = jax.random.split(jax.random.key(0), len(places))
    images = jax.jit(lambda batch, keys: augment(batch, keys, operations))(batch, keys)["image"]
    return dataclasses.replace(data, train_images=np.asarray(images), train_labels=data.train_labels[places])


def judge(numbers: Numbers) -> Verdict:
    """Ask of the fewest images whether the first kind clearly helps, and of any number whether flips clearly hurt."""
    none, good, bad, offline = (numbers["accuracy"][kind] for kind in (*KINDS, OFFLINE))
    fewest = min(none, key=int)
    hurt = [count for count in none if clearly_greater(none[count], bad[count])]
    rows = "; ".join(
        f"{count} images {shown(none[count])} % without, {shown(good[count])} % shifted and turned anew each time, "
        f"{shown(offline[count])} % offline ({COPIES} copies of each), {shown(bad[count])} % flipped"
        for count in none
    )
    return Verdict(
        clearly_greater(good[fewest], none[fewest]) and bool(hurt), f"test accuracy on {numbers['dataset']}: {rows}"
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracy against the number of images."""
    axes = figure.subplots()
    seed_points(axes, numbers["accuracy"])
    frame(axes, xlabel="training images", ylabel="test accuracy (%)", title=numbers["dataset"])


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
