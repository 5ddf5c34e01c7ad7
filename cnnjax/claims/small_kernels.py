"""Stacks of 3x3 convolutions against one convolution with a larger window: what they see, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, shown
from cnnjax.claims.drawing import frame, picture, seed_dots
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.nn import Conv, max_pool
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


class StackedCNN(nn.Module):
    """One of the stacks in front of a dense layer, after a convolution that widens and a pooling.

    Args:
      images: float[batch, height, width, channels], of even height and width.
      train: no layer of this network depends on it.
    Returns:
      float32[batch, num_classes] logits.
    """

    num_classes: int
    windows: tuple[int, ...]
    features: int = 16

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        x = max_pool(nn.relu(Conv(self.features, (3, 3))(images)), 2)
        for window in self.windows:
            x = nn.relu(Conv(self.features, (window, window), kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def measure(setting: Setting) -> Numbers:
    """Count, and train a small network with each stack."""
    data = load_arrays(setting)
    accuracy = {
        name: fit_arrays(
            StackedCNN(data.num_classes, windows),
            data,
            optax.adam(3e-3),
            setting.seeds,
            steps=10 if setting.quick else 200,
        ).test_accuracy
        for name, windows in STACKS.items()
        if name in PAIRS[0]
    }
    return {**counts(), "dataset": data.name, "accuracy": accuracy}


def counts() -> Numbers:
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
    accuracy = " and ".join(f"{shown(values)} % with {name}" for name, values in numbers["accuracy"].items())
    return Verdict(
        holds,
        f"{'; '.join(reasons)} ({numbers['channels']} channels; counts, no spread). Test accuracy on "
        f"{numbers['dataset']}, which does not decide: {accuracy}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw how strongly each pixel moves the output in the middle."""
    *pictures, last = figure.subplots(1, len(STACKS) + 1)
    for axes, (name, row) in zip(pictures, numbers["stacks"].items(), strict=True):
        picture(axes, row["influence"], f"{name}: {row['weights']:,} weights,\n{row['activations']} ReLU")
    figure.suptitle("Pixels that move the output in the middle, and how much (all weights 1), and accuracy with both")
    seed_dots(last, numbers["accuracy"])
    frame(last, legend=False, ylabel=f"test accuracy on {numbers['dataset']} (%)")
    last.tick_params(axis="x", labelsize=7)


CLAIM = Claim(
    name="small_kernels",
    statement="Two 3x3 convolutions see as much as one of 5x5, with fewer weights and more non-linearity.",
    source="Simonyan and Zisserman 2014, arXiv:1409.1556, section 2.3",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(13.0, 3.2),
)
