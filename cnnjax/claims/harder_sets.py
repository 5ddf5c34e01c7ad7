"""An MLP, LeNet-5 and a small ResNet on a simple set, and on harder ones that are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_dots
from cnnjax.claims.fitting import Arrays, fit_arrays, load_arrays
from cnnjax.claims.sets import centred, composed, shifted
from cnnjax.models import create_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pixels of all images: LeNet-5 needs 12. Larger ones stay as large as they are.
SIZE = 16
# Of a colour image, no scene can be made.
GREY = 1
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"name": "mlp"},
    "LeNet-5": {"name": "lenet5"},
    # Half of the published width.
    "ResNet-8": {"name": "resnet20", "stage_sizes": (1, 1, 1), "features": 8},
}


def sets(data: Arrays) -> list[Arrays]:
    """Return the set itself, its images at random places, and, of grey images, scenes with them."""
    side = max(data.train_images.shape[1:3])
    found = [centred(data, max(SIZE, side)), shifted(data, max(SIZE, 3 * side // 2))]
    if data.train_images.shape[-1] == GREY:
        found.append(composed(data, max(SIZE, side)))
    return found


def measure(setting: Setting) -> Numbers:
    """Train each network on each set."""
    accuracy: dict[str, dict[str, list[float]]] = {}
    # The cheapest ones alone.
    most = 2 if setting.quick else None
    for data in sets(load_arrays(setting))[:most]:
        accuracy[data.name] = {}
        for network, fields in list(NETWORKS.items())[:most]:
            model = create_model(num_classes=data.num_classes, **fields)
            steps = 4 if setting.quick else 200
            fits = fit_arrays(model, data, optax.adam(2e-3), setting.seeds, steps=steps, batch_size=32)
            accuracy[data.name][network] = fits.test_accuracy
    return {"accuracy": accuracy}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the MLP is, on each harder set, clearly further behind both others than on the simple one."""
    simple, *harder = numbers["accuracy"].values()

    def behind(rows: dict[str, list[float]], network: str) -> list[float]:
        return (np.asarray(rows[network]) - np.asarray(rows["MLP"])).tolist()

    further = [
        clearly_greater(behind(rows, network), [max(0.0, each) for each in behind(simple, network)])
        for rows in harder
        for network in rows
        if network != "MLP"
    ]
    reasons = [
        f"{name}: {', '.join(f'{network} {shown(values)} %' for network, values in rows.items())}"
        for name, rows in numbers["accuracy"].items()
    ]
    return Verdict(all(further), f"test accuracy on {'; '.join(reasons)}")


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the accuracy of each seed, one set beside the other."""
    found = numbers["accuracy"]
    for axes, (name, rows) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        seed_dots(axes, rows)
        frame(axes, legend=False, ylim=(0, 102), ylabel="test accuracy (%)", title=name)


CLAIM = Claim(
    name="harder_sets",
    statement="On simple images an MLP keeps up with CNNs; on harder ones it does not.",
    source="LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE 86(11), sections II.A and III.C; "
    "He et al. 2015, arXiv:1512.03385, section 4.2 (the ResNet)",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(9.0, 3.8),
)
