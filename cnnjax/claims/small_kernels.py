"""Stacks of 3x3 convolutions against one convolution with a larger window: what they see, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict
from cnnjax.nn import Conv
from cnnjax.signal import receptive_field

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STACKS = {"one 5x5": (5,), "two 3x3": (3, 3), "one 7x7": (7,), "three 3x3": (3, 3, 3)}
PAIRS = (("one 5x5", "two 3x3"), ("one 7x7", "three 3x3"))
CHANNELS = 64
SIZE = 15


def stack(windows: tuple[int, ...], channels: int) -> nn.Sequential:
    """Return convolutions with as many channels in as out, a ReLU after each; all weights are positive."""
    layers: list[Any] = []
    for window in windows:
        layers += [Conv(channels, (window, window), use_bias=False, kernel_init=nn.initializers.ones), nn.relu]
    return nn.Sequential(layers)


def seen(windows: tuple[int, ...]) -> np.ndarray:
    """Return float[size, size]: how strongly each pixel moves the output in the middle, from 0 to 1."""
    network = stack(windows, 1)
    image = jnp.ones((1, SIZE, SIZE, 1))
    variables = network.init(jax.random.key(0), image)
    gradient = jax.grad(lambda image: network.apply(variables, image)[0, SIZE // 2, SIZE // 2, 0])(image)  # type: ignore[call-overload]
    return np.asarray(gradient[0, :, :, 0] / gradient.max())


def measure(setting: Setting) -> Numbers:
    """Compute receptive fields by the formula and by gradients, and count weights and activations."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, CHANNELS), jnp.float32)
    rows = {}
    for name, windows in STACKS.items():
        layers = stack(windows, CHANNELS)
        shapes = jax.eval_shape(layers.init, jax.random.key(0), image)
        pixels = seen(windows)
        rows[name] = {
            "receptive_field": receptive_field([(window,) for window in windows]).size,
            "pixels_with_gradient": int((pixels > 0).any(0).sum()),
            "weights": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
            "activations": sum(layer is nn.relu for layer in layers.layers),
            "influence": pixels.round(4).tolist(),
        }
    return {"channels": CHANNELS, "stacks": rows}


def judge(numbers: Numbers) -> Verdict:
    """Compare each stack with the single window that sees as much."""
    stacks, reasons, holds = numbers["stacks"], [], True
    for large, small in PAIRS:
        one, many = stacks[large], stacks[small]
        fields = {each[key] for each in (one, many) for key in ("receptive_field", "pixels_with_gradient")}
        holds &= len(fields) == 1 and many["weights"] < one["weights"] and many["activations"] > one["activations"]
        reasons.append(
            f"{small} see {many['pixels_with_gradient']}x{many['pixels_with_gradient']} pixels with "
            f"{many['weights']:,} weights and {many['activations']} activations, {large} "
            f"{one['pixels_with_gradient']}x{one['pixels_with_gradient']} with {one['weights']:,} and "
            f"{one['activations']}"
        )
    return Verdict(holds, f"{'; '.join(reasons)} ({numbers['channels']} channels; counts, no spread)")


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw how strongly each pixel moves the output in the middle."""
    for axes, (name, row) in zip(figure.subplots(1, len(STACKS)), numbers["stacks"].items(), strict=True):
        axes.imshow(row["influence"], cmap="viridis", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}: {row['weights']:,} weights,\n{row['activations']} ReLU", fontsize=9)
    figure.suptitle("Pixels that move the output in the middle, and how much (all weights 1)")


CLAIM = Claim(
    name="small_kernels",
    statement="Two 3x3 convolutions see as much as one of 5x5, with fewer weights and more non-linearity.",
    source="Simonyan and Zisserman 2014, arXiv:1409.1556, section 2.3",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(10.0, 3.2),
)
