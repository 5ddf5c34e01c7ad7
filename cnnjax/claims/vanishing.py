"""Gradients of deep networks by activation and depth as they start, and how fast they learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import Arrays, fast_compilation, fit_arrays, load_arrays
from cnnjax.models import create_model
from cnnjax.nn import elu, leaky_relu, logistic, maxout, relu, tanh
from cnnjax.training.losses import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GLOROT, HE = nn.initializers.glorot_uniform(), nn.initializers.he_normal()
# Each starts as its own literature recommends.
ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "sigmoid": (logistic, GLOROT),
    "tanh": (tanh, GLOROT),
    "ReLU": (relu, HE),
    "leaky ReLU": (leaky_relu, HE),
    "ELU": (elu, HE),
    # Of two normal numbers the larger one has the mean square of each: kernels start with a variance of 1 / inputs.
    "maxout": (partial(maxout, pieces=2), nn.initializers.lecun_normal()),
}
# Features that compete for a unit.
PIECES = {"maxout": 2}
DEPTHS = (2, 4, 8, 16)
UNITS = 64
TRAINED_DEPTH = 8
# Gradients vanish if the first layer's is below this share of the last hidden layer's, at the greatest depth.
VANISHED = 0.1
RECORD, LEARNT = 10, 0.5
# Steps between two looks at the gradients while training.
LOOK = 20


def network(activation: str, depth: int, num_classes: int) -> Any:
    """Return an MLP of ``depth`` hidden layers."""
    function, kernel_init = ACTIVATIONS[activation]
    units = UNITS * PIECES.get(activation, 1)
    fields: Any = {"features": (units,) * depth, "activation": function, "kernel_init": kernel_init}
    return create_model("mlp", num_classes=num_classes, **fields)


def kernel_norms(model: Any, depth: int, data: Arrays) -> Callable[[Any], jax.Array]:
    """Return the function from parameters to the norms of the gradients of the hidden layers' kernels, float[depth]."""
    images, labels = jnp.asarray(data.train_images[:256]), jnp.asarray(data.train_labels[:256])

    def norms(params: Any) -> jax.Array:
        grads = jax.grad(lambda params: cross_entropy(model.apply({"params": params}, images), labels).mean())(params)
        stages = [f"stage{index}" for index in range(1, depth + 1)]
        return jnp.stack([jnp.linalg.norm(grads[stage]["dense1"]["kernel"]) for stage in stages])

    return norms


def gradient_norms(model: Any, depth: int, data: Arrays, seeds: tuple[int, ...]) -> list[list[float]]:
    """Return the norm of the gradient of each hidden layer's kernel at the start, for each seed."""
    norms = kernel_norms(model, depth, data)

    def at_start(key: jax.Array) -> jax.Array:
        return norms(model.init(key, jnp.asarray(data.train_images[:1]))["params"])

    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return np.asarray(jax.jit(jax.vmap(at_start), compiler_options=fast_compilation())(keys), np.float64).tolist()


def measure(setting: Setting) -> Numbers:
    """Take gradients at each depth, and train at one of them."""
    data = load_arrays(setting)
    depths = DEPTHS[:1] if setting.quick else DEPTHS
    steps = 20 if setting.quick else 600
    norms: dict[str, dict[str, list[list[float]]]] = {}
    learnt, shares_learning = {}, {}
    for name in ACTIVATIONS:
        norms[name] = {
            str(depth): gradient_norms(network(name, depth, data.num_classes), depth, data, setting.seeds)
            for depth in depths
        }
        model = network(name, TRAINED_DEPTH, data.num_classes)
        look = jax.jit(kernel_norms(model, TRAINED_DEPTH, data), compiler_options=fast_compilation())

        def share(state: Any, look: Any = look) -> float | None:
            found = np.asarray(look(state.params), np.float64)
            # JSON has no NaN.
            return float(found[0] / found[-1]) if np.isfinite(found).all() and found[-1] > 0 else None

        fits = fit_arrays(
            model, data, optax.sgd(0.05, momentum=0.9), setting.seeds, steps=steps, record=RECORD, watch=share
        )
        shares_learning[name] = [row[LOOK // RECORD - 1 :: LOOK // RECORD] for row in fits.watched]
        learnt[name] = [
            next((float((place + 1) * RECORD) for place, loss in enumerate(row) if loss < LEARNT), 2.0 * steps)
            for row in fits.train_loss
        ]
    return {"dataset": data.name, "steps": steps, "norms": norms, "learnt": learnt, "while_learning": shares_learning}


def shares(numbers: Numbers) -> dict[str, list[float]]:
    """Return the first layer's gradient over the last hidden layer's, at the greatest depth, by activation and seed."""
    deepest = {name: rows[max(rows, key=int)] for name, rows in numbers["norms"].items()}
    return {name: [row[0] / row[-1] for row in rows] for name, rows in deepest.items()}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether gradients vanish under both, and not under ReLU, and whether ReLU learns in clearly fewer steps."""
    found, learnt = shares(numbers), numbers["learnt"]
    vanish = all(max(found[name]) < VANISHED for name in ("sigmoid", "tanh")) and min(found["ReLU"]) >= VANISHED
    faster = all(clearly_greater(learnt[name], learnt["ReLU"]) for name in ("sigmoid", "tanh"))
    depth = max(map(int, numbers["norms"]["ReLU"]))
    rows = [
        f"{name} {np.mean(found[name]):.2g} ± {np.std(found[name], ddof=1):.1g} and "
        + (f"{shown(steps, 0)} steps" if max(steps) <= numbers["steps"] else f"not always in {numbers['steps']} steps")
        for name, steps in learnt.items()
    ]
    return Verdict(
        vanish and faster,
        f"first layer's gradient over the last hidden layer's at depth {depth} (below {VANISHED} is vanished), and "
        f"steps on {numbers['dataset']} until a network of depth {TRAINED_DEPTH} has a loss below {LEARNT}: "
        f"{', '.join(rows)}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw gradients by layer at the greatest depth, and the first layer's share at each depth."""
    left, middle, right = figure.subplots(1, 3)
    for place, (name, rows) in enumerate(numbers["norms"].items()):
        deepest = np.asarray(rows[max(rows, key=int)])
        left.plot(range(1, deepest.shape[1] + 1), deepest.T, color=f"C{place}", alpha=0.6)
        means = [np.mean([row[0] / row[-1] for row in values]) for values in rows.values()]
        middle.plot([int(depth) for depth in rows], means, "o-", color=f"C{place}", label=name)
        shares = [[np.nan if each is None else each for each in row] for row in numbers["while_learning"][name]]
        seed_curves(right, shares, LOOK, f"C{place}", name)
    frame(
        left,
        legend=False,
        yscale="log",
        xlabel="hidden layer",
        ylabel="norm of the kernel's gradient",
        title="at the start, by seed",
    )
    left.locator_params(axis="x", integer=True)
    share = "first layer's gradient / last hidden layer's"
    frame(middle, yscale="log", xlabel="hidden layers", ylabel=share, title="at the start")
    frame(right, legend=False, yscale="log", xlabel="step", ylabel=share, title=f"depth {TRAINED_DEPTH}, learning")
    for axes in (middle, right):
        axes.axhline(VANISHED, color="tab:gray", linewidth=1)


CLAIM = Claim(
    name="vanishing",
    statement="Under sigmoid and tanh gradients vanish with depth; under ReLU they do not, and it learns faster.",
    source="Glorot and Bengio 2010, AISTATS, section 4; Krizhevsky, Sutskever and Hinton 2012, section 3.1",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(13.0, 4.0),
)
