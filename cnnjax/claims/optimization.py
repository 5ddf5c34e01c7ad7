"""Optimizers, learning-rate policies and batch sizes on one small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN
from cnnjax.training import make_optimizer, make_schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name, momentum, and rates, of which each takes its best one.
OPTIMIZERS: dict[str, tuple[Any, float, tuple[float, ...]]] = {
    "gradient descent": ("sgd", 0.0, (0.03, 0.3)),
    "momentum": ("sgd", 0.9, (0.01, 0.1)),
    "RMSprop": ("rmsprop", 0.0, (0.001, 0.01)),
    "Adam": ("adam", 0.9, (0.001, 0.01)),
}
# Policies of momentum, at its higher rate.
POLICIES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "steps": {"name": "multistep", "milestones": (0.5, 0.75)},
    "cosine": {"name": "cosine"},
}
POLICY_RATE = 0.1
# Batch sizes, at one rate of momentum, for as many images each.
BATCHES = (16, 64, 256)
BATCH_RATE = 0.03
BATCH = 64
RECORD = 10


def measure(setting: Setting) -> Numbers:
    """Train the network in each way."""
    data = load_arrays(setting)
    model = SmallCNN(data.num_classes)
    steps = 20 if setting.quick else 160

    def losses(tx: Any, steps: int, batch: int = BATCH, record: int = RECORD) -> list[list[float]]:
        fits = fit_arrays(model, data, tx, setting.seeds, steps=steps, batch_size=batch, record=record)
        # JSON has no NaN: what diverged is worse than any guess.
        return np.nan_to_num(fits.train_loss, nan=1e3, posinf=1e3).clip(max=1e3).tolist()

    optimizers: dict[str, Any] = {}
    for label, (name, momentum, rates) in OPTIMIZERS.items():
        found = {
            f"{rate:g}": losses(make_optimizer(name, rate, momentum=momentum), steps)
            for rate in (rates[-1:] if setting.quick else rates)
        }
        best = min(found, key=lambda rate: np.mean([row[-1] for row in found[rate]]))
        optimizers[label] = {"rate": best, "loss": found[best]}
    policies = {
        label: losses(make_optimizer("sgd", make_schedule(learning_rate=POLICY_RATE, num_steps=steps, **policy)), steps)
        for label, policy in POLICIES.items()
    }
    batches = {
        str(batch): losses(
            make_optimizer("sgd", BATCH_RATE), steps * BATCH // batch, batch, max(RECORD * BATCH // batch, 1)
        )
        for batch in (BATCHES[1:] if setting.quick else BATCHES)
    }
    return {
        "dataset": data.name,
        "steps": steps,
        "optimizers": optimizers,
        "policies": policies,
        "batches": batches,
    }


def last(rows: list[list[float]]) -> list[float]:
    """Return the last record of each seed."""
    return [row[-1] for row in rows]


def judge(numbers: Numbers) -> Verdict:
    """Ask all three: others end below gradient descent, falling rates below a constant one, small batches below large.

    Each by the mean loss of the last tenth or less of the training, clearly.
    """
    optimizers = {name: last(found["loss"]) for name, found in numbers["optimizers"].items()}
    policies = {name: last(rows) for name, rows in numbers["policies"].items()}
    batches = {name: last(rows) for name, rows in numbers["batches"].items()}
    plain, *others = optimizers.values()
    constant, *falling = policies.values()
    parts = {
        "optimizers": all(clearly_greater(plain, values) for values in others),
        "policies": all(clearly_greater(constant, values) for values in falling),
        "batches": all(
            clearly_greater(larger, smaller)
            for smaller, larger in zip(list(batches.values()), list(batches.values())[1:], strict=False)
        ),
    }

    def rows(found: dict[str, list[float]]) -> str:
        return ", ".join(f"{name} {shown(values, 3)}" for name, values in found.items())

    rates = {f"{name} (rate {numbers['optimizers'][name]['rate']})": values for name, values in optimizers.items()}
    say = {name: "as claimed" if part else "not as claimed" for name, part in parts.items()}
    return Verdict(
        all(parts.values()),
        f"training loss on {numbers['dataset']} at the end of {numbers['steps']} steps of {BATCH} images: "
        f"{rows(rates)} ({say['optimizers']}); momentum with the policies {rows(policies)} ({say['policies']}); after "
        f"as many images in batches of {rows(batches)} ({say['batches']})",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the training loss against the step, of batches against the images."""
    optimizers, policies, batches = figure.subplots(1, 3, sharey=True)
    for place, (name, found) in enumerate(numbers["optimizers"].items()):
        seed_curves(optimizers, found["loss"], RECORD, f"C{place}", f"{name}, rate {found['rate']}")
    for place, (name, rows) in enumerate(numbers["policies"].items()):
        seed_curves(policies, rows, RECORD, f"C{place}", name)
    for place, (name, rows) in enumerate(numbers["batches"].items()):
        seed_curves(batches, rows, RECORD * BATCH, f"C{place}", f"batches of {name}")
    titles = {"optimizers": optimizers, f"policies, rate {POLICY_RATE}": policies, "batch sizes": batches}
    for title, axes in titles.items():
        frame(axes, yscale="log", xlabel="images" if axes is batches else "step", title=title)
    optimizers.set_ylabel("training loss (nats)")


CLAIM = Claim(
    name="optimization",
    statement="Momentum, RMSprop and Adam learn faster than plain gradient descent, a falling rate ends lower than a "
    "constant one, and small batches make more of the same number of images.",
    source="Sutskever, Martens, Dahl and Hinton 2013, ICML (momentum); Kingma and Ba 2014, arXiv:1412.6980 (Adam); "
    "Loshchilov and Hutter 2016, arXiv:1608.03983 (falling rates); Masters and Luschi 2018, arXiv:1804.07612 (batches)",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(12.0, 3.8),
)
