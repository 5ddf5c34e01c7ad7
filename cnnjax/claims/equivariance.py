"""Shifted images: how far layers are from shifting their maps alike, and what networks make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame
from cnnjax.claims.fitting import Arrays, accuracy, fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN
from cnnjax.models import create_model
from cnnjax.nn import Conv, max_pool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHIFTS = (0, 1, 2, 3, 4)
# Pixels around each image: room to shift it.
MARGIN = 4
# A map is shifted alike if no more than rounding is left.
EXACT = 1e-5
CONSISTENT_AT = 2


def blur(x: jax.Array) -> jax.Array:
    """Blur by (1, 2, 1) / 4 in both directions, around the edges."""
    for axis in (1, 2):
        x = (jnp.roll(x, 1, axis) + 2 * x + jnp.roll(x, -1, axis)) / 4
    return x


def dense_max(x: jax.Array) -> jax.Array:
    """Take the maximum of 2x2 pixels at every pixel, around the edges."""
    return max_pool(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="wrap"), 2, 1)


# What follows a 3x3 convolution and ReLU, and its stride.
LAYERS: dict[str, tuple[Callable[[jax.Array], jax.Array], int]] = {
    "convolution": (lambda x: x, 1),
    "max pool, stride 1": (dense_max, 1),
    "stride 2": (lambda x: x[:, ::2, ::2], 2),
    "max pool 2x2, stride 2": (lambda x: max_pool(x, 2), 2),
    "max pool, blur, stride 2": (lambda x: blur(dense_max(x))[:, ::2, ::2], 2),
}


def layer_errors(images: jax.Array, seed: int) -> dict[str, list[float]]:
    """Return, by layer and shift, |F(shifted x) - shifted F(x)| / |F(x) less its mean|.

    Maps of stride 2 are compared at the image's size, each value repeated. Shifts go around the edges.
    """
    convolution = Conv(8, (3, 3), padding="CIRCULAR")
    variables = convolution.init(jax.random.key(seed), images[:1])

    @jax.jit
    def errors(images: jax.Array) -> dict[str, list[jax.Array]]:
        def maps(after: Callable[[jax.Array], jax.Array], stride: int, shift: int) -> jax.Array:
            x: Any = convolution.apply(variables, jnp.roll(images, shift, 2))
            return jnp.repeat(jnp.repeat(after(jax.nn.relu(x)), stride, 1), stride, 2)

        found = {}
        for name, (after, stride) in LAYERS.items():
            still = maps(after, stride, 0)
            size = jnp.linalg.norm(still - still.mean())
            found[name] = [
                jnp.linalg.norm(maps(after, stride, shift) - jnp.roll(still, shift, 2)) / size for shift in SHIFTS
            ]
        return found

    return {name: [float(error) for error in row] for name, row in errors(images).items()}


def framed(data: Arrays) -> Arrays:
    """Return the data with a black margin around each image."""
    widths = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    return dataclasses.replace(
        data, train_images=np.pad(data.train_images, widths), test_images=np.pad(data.test_images, widths)
    )


def measure(setting: Setting) -> Numbers:
    """Measure layers as they start, and networks that were trained on images in the middle."""
    data = framed(load_arrays(setting))
    errors = [layer_errors(jnp.asarray(data.test_images[:64]), seed) for seed in setting.seeds]
    networks: dict[str, Any] = {
        "MLP": create_model("mlp", num_classes=data.num_classes, features=(128,)),
        "CNN without pooling": SmallCNN(data.num_classes, pool=None),
        "CNN with pooling": SmallCNN(data.num_classes),
        "CNN with pooling, averaged": SmallCNN(data.num_classes, global_average=True),
    }
    found: dict[str, list[list[float]]] = {}
    for name, model in networks.items():
        steps = 10 if setting.quick else 300
        fits = fit_arrays(model, data, optax.adam(3e-3), setting.seeds, steps=steps)
        # The mean over the four directions.
        found[name] = [
            [
                float(
                    np.mean(
                        [
                            accuracy(state, np.roll(data.test_images, sign * shift, axis), data.test_labels)
                            for sign in (1, -1)
                            for axis in (1, 2)
                        ]
                    )
                )
                for shift in SHIFTS
            ]
            for state in fits.states
        ]
    layers = {name: [row[name] for row in errors] for name in LAYERS}
    return {"dataset": data.name, "shifts": list(SHIFTS), "layers": layers, "accuracy": found}


def judge(numbers: Numbers) -> Verdict:
    """Ask three things: exact convolution, aliasing under stride that blur lessens, and more accuracy by pooling."""
    layers = {name: np.asarray(rows) for name, rows in numbers["layers"].items()}
    place = numbers["shifts"].index(CONSISTENT_AT)
    odd = [index for index, shift in enumerate(numbers["shifts"]) if shift % 2]
    by_layer = {name: rows[:, odd].mean(1).tolist() for name, rows in layers.items()}
    equivariant = bool(layers["convolution"].max() <= EXACT)
    pooled = by_layer["max pool 2x2, stride 2"]
    broken = min(pooled) > EXACT and clearly_greater(pooled, by_layer["max pool, blur, stride 2"])
    at_shift = {name: [row[place] for row in rows] for name, rows in numbers["accuracy"].items()}
    invariant = clearly_greater(at_shift["CNN with pooling"], at_shift["CNN without pooling"])
    return Verdict(
        equivariant and broken and invariant,
        f"convolution is off by {layers['convolution'].max():.1g} at most; at odd shifts a max pool of stride 2 by "
        f"{shown(pooled, 3)}, with a blur before the stride by {shown(by_layer['max pool, blur, stride 2'], 3)}; "
        f"accuracy on {numbers['dataset']} shifted by {CONSISTENT_AT} pixels: "
        + ", ".join(f"{name} {shown(values)} %" for name, values in at_shift.items()),
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw errors by layer and accuracy by network against the shift, means over seeds."""
    left, right = figure.subplots(1, 2)
    for axes, rows, label in (
        (left, numbers["layers"], "error of equivariance"),
        (right, numbers["accuracy"], f"test accuracy on {numbers['dataset']} (%)"),
    ):
        for name, values in rows.items():
            array = np.asarray(values)
            axes.errorbar(numbers["shifts"], array.mean(0), array.std(0, ddof=1), marker="o", capsize=2, label=name)
        frame(axes, legend=False, xlabel="shift, pixels", ylabel=label)
        axes.set_xticks(numbers["shifts"])
        # Below the axes, where no curve is.
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    right.set_ylim(0, 102)


CLAIM = Claim(
    name="equivariance",
    statement="Convolution is equivariant to shifts, stride breaks that unless it is preceded by a blur, and pooling "
    "makes predictions more invariant.",
    source="Zhang 2019, arXiv:1904.11486, section 3",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(10.0, 4.8),
)
