"""A small network with and without batch normalisation, at several learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.01, 0.1, 1.0, 10.0)
# A network has learnt once the mean loss of so many steps is below this.
RECORD, LEARNT = 10, 0.2
BATCHES = (4, 16, 64)
NETWORKS = {"without": False, "with": True}


def measure(setting: Setting) -> Numbers:
    """Train both networks at each rate by plain gradient descent; compare the two formulas on trained ones."""
    data = load_arrays(setting)
    steps = 20 if setting.quick else 200
    losses: dict[str, dict[str, Any]] = {}
    formulas = {}
    for name, batch_norm in NETWORKS.items():
        model = SmallCNN(data.num_classes, batch_norm=batch_norm)
        losses[name] = {}
        for rate in RATES[1:3] if setting.quick else RATES:
            fits = fit_arrays(model, data, optax.sgd(rate), setting.seeds, steps=steps, record=RECORD)
            # JSON has no NaN: what diverged is worse than any guess.
            losses[name][str(rate)] = np.nan_to_num(fits.train_loss, nan=1e3, posinf=1e3).clip(max=1e3).tolist()
            if batch_norm and rate == 0.1:
                for size in BATCHES:
                    images = jnp.asarray(data.test_images[:size])
                    formulas[str(size)] = [difference(model, state.variables, images) for state in fits.states]
    return {"dataset": data.name, "steps": steps, "losses": losses, "formulas": formulas}


def difference(model: SmallCNN, variables: Any, images: jax.Array) -> float:
    """Return how much logits differ between the batch's statistics and the running ones, relative to their size."""
    by_batch, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    by_running = jnp.asarray(model.apply(variables, images))
    return float(jnp.linalg.norm(by_batch - by_running) / jnp.linalg.norm(by_running))


def steps_to_learn(losses: list[list[float]], steps: int) -> list[float]:
    """Return, for each seed, the steps until the network had learnt; twice all steps if it never did."""
    return [
        next((float((place + 1) * RECORD) for place, loss in enumerate(row) if loss < LEARNT), 2.0 * steps)
        for row in losses
    ]


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the best rate learns in fewer steps, and whether the greatest rate that learns is greater."""
    steps, rates = numbers["steps"], list(numbers["losses"]["with"])
    learn, best, highest = {}, {}, {}
    for name in NETWORKS:
        learn[name] = {rate: steps_to_learn(rows, steps) for rate, rows in numbers["losses"][name].items()}
        best[name] = min(learn[name], key=lambda rate: np.mean(learn[name][rate]))
        working = [float(rate) for rate, found in learn[name].items() if max(found) <= steps]
        highest[name] = max(working, default=0.0)
    fastest = {name: learn[name][best[name]] for name in NETWORKS}
    differences = ", ".join(f"{100 * np.mean(found):.0f} % for {size}" for size, found in numbers["formulas"].items())
    return Verdict(
        clearly_greater(fastest["without"], fastest["with"]) and highest["with"] > highest["without"],
        f"on {numbers['dataset']}, at its best rate, the network with batch norm has learnt (loss below {LEARNT}) "
        f"after {shown(fastest['with'], 0)} steps (rate {best['with']}), that without after "
        f"{shown(fastest['without'], 0)} (rate {best['without']}); the "
        f"greatest of {len(rates)} rates at which every seed learns in {steps} steps is "
        f"{highest['with']:g} with and {highest['without']:g} without; logits by the formula of training and by that "
        f"of testing differ by {differences} images (mean over seeds)",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the training loss at each rate, each seed a line."""
    rates = list(numbers["losses"]["with"])
    for axes, rate in zip(figure.subplots(1, len(rates), sharey=True), rates, strict=True):
        for place, name in enumerate(NETWORKS):
            seed_curves(axes, numbers["losses"][name][rate], RECORD, f"C{place}", f"{name} batch norm")
        axes.axhline(LEARNT, color="tab:gray", linewidth=1)
        frame(axes, yscale="log", ylim=(0.005, 20), xlabel="step", title=f"rate {rate}")
    figure.axes[0].set_ylabel("training loss (nats)")


CLAIM = Claim(
    name="batch_norm",
    statement="With batch normalisation a network learns in fewer steps, and at higher rates.",
    source="Ioffe and Szegedy 2015, arXiv:1502.03167, sections 3.3 and 4.2",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(12.0, 3.6),
)
