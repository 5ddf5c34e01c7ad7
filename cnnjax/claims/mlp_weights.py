"""Weights of a fully connected layer and of a convolution on images of several sizes, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict
from cnnjax.claims.drawing import frame, tick_at
from cnnjax.models import create_model
from cnnjax.nn import Conv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = 256
SIZES = (32, 64, 128, 256, 512)
# What the lectures say: 65,536 inputs times 256 units; ten filters of 5x5x3, and a bias each.
MLP_AT_256, CONVOLUTION = 16_777_216, 760


def measure(setting: Setting) -> Numbers:
    """Count by shapes: nothing is computed."""
    mlp = create_model("mlp", features=(UNITS,))
    convolution = Conv(10, (5, 5))
    key = jax.random.key(0)
    found: dict[str, list[int]] = {"mlp": [], "convolution": []}
    for size in SIZES:
        grey, colour = (jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32) for channels in (1, 3))
        layer = jax.eval_shape(mlp.init, key, grey)["params"]["stage1"]["dense1"]
        found["mlp"].append(layer["kernel"].size)
        filters = jax.eval_shape(convolution.init, key, colour)["params"]
        found["convolution"].append(sum(leaf.size for leaf in jax.tree.leaves(filters)))
    return {"size": list(SIZES), **found}


def judge(numbers: Numbers) -> Verdict:
    """Compare with the lectures' figures, which have to be met exactly."""
    at_256 = numbers["mlp"][numbers["size"].index(256)]
    convolution = sorted(set(numbers["convolution"]))
    return Verdict(
        at_256 == MLP_AT_256 and convolution == [CONVOLUTION],
        f"{at_256:,} weights for {UNITS} units on 256x256 grey pixels, and {', '.join(f'{n:,}' for n in convolution)} "
        f"for ten 5x5x3 filters on images of {numbers['size'][0]} to {numbers['size'][-1]} pixels (counts, no spread)",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw both counts against the size of the image."""
    axes = figure.subplots()
    for key, label in (("mlp", f"{UNITS} units, fully connected (grey)"), ("convolution", "ten 5x5x3 filters")):
        axes.plot(numbers["size"], numbers[key], "o-", label=label)
        place = (numbers["size"][3], numbers[key][3])
        axes.annotate(f"{numbers[key][3]:,}", place, (-50, 8), textcoords="offset points")
    label = "height and width of the image, pixels"
    frame(axes, xscale="log", yscale="log", ylim=(100, 3e8), xlabel=label, ylabel="weights")
    tick_at(axes, numbers["size"])


CLAIM = Claim(
    name="mlp_weights",
    statement="A fully connected layer of 256 units on 256x256 images needs 16,777,216 weights; ten convolution "
    "filters of 5x5x3 need 760, whatever the image's size.",
    source="LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE 86(11), section II.A",
    measure=measure,
    judge=judge,
    draw=draw,
)
