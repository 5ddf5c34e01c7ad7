"""Plain and residual networks of two depths: their error on the images that they are trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.models import create_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("plain", "resnet")
# Convolutions and the dense layer: three stages of two each, n times, and two more.
DEPTHS, QUICK_DEPTHS = (20, 56), (8,)
# Half of the published widths.
FEATURES = 8
RECORD = 10
# Errors are judged by their mean over so many records at the end.
LAST = 3


def measure(setting: Setting) -> Numbers:
    """Train all four networks by the paper's optimizer, from a tenth of its rate up and down again."""
    data = load_arrays(setting)
    steps = RECORD if setting.quick else 160
    rate = optax.warmup_cosine_decay_schedule(0.01, 0.1, steps // 6, steps)
    depths = QUICK_DEPTHS if setting.quick else DEPTHS
    found = {}
    for kind in KINDS:
        for depth in depths:
            fields: Any = {"features": FEATURES, "stage_sizes": ((depth - 2) // 6,) * 3}
            model = create_model(f"{kind}20", num_classes=data.num_classes, **fields)
            tx = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rate, momentum=0.9))
            fits = fit_arrays(model, data, tx, setting.seeds, steps=steps, batch_size=32, record=RECORD)
            found[f"{kind}{depth}"] = {"error": fits.train_error, "test": fits.test_accuracy}
    return {"dataset": data.name, "steps": steps, "depths": list(depths), "networks": found}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the deeper plain network has clearly more training error, and the deeper residual one not."""
    networks, depths = numbers["networks"], numbers["depths"]
    error = {name: [float(np.mean(row[-LAST:])) for row in found["error"]] for name, found in networks.items()}
    plain, residual = (clearly_greater(error[f"{kind}{max(depths)}"], error[f"{kind}{min(depths)}"]) for kind in KINDS)
    rows = [
        f"{name} {shown(values)} % (test accuracy {shown(networks[name]['test'])} %)" for name, values in error.items()
    ]
    return Verdict(
        plain and not residual,
        f"training error on {numbers['dataset']} in the last {LAST * RECORD} of {numbers['steps']} steps: "
        f"{', '.join(rows)}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the training error of plain networks on the left, and of residual ones on the right."""
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), KINDS, strict=True):
        for place, depth in enumerate(numbers["depths"]):
            seed_curves(axes, numbers["networks"][f"{kind}{depth}"]["error"], RECORD, f"C{place}", f"{kind}{depth}")
        frame(axes, xlabel="step", ylabel="training error (%)", ylim=(0, 100))


CLAIM = Claim(
    name="residual",
    statement="Plain networks degrade with depth: a deeper one has more training error. Residual networks do not.",
    source="He et al. 2015, arXiv:1512.03385, sections 1 and 4.2, figures 1 and 6",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(9.0, 3.8),
)
