"""MobileNet and its twin of full convolutions: multiply-adds and parameters, and the accuracy of small such twins."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, shown
from cnnjax.claims.drawing import frame, seed_dots
from cnnjax.claims.fitting import fit_arrays, load_arrays
from cnnjax.models import create_model
from cnnjax.models.mobilenet_v1 import STEM_FEATURES, TABLE_1, DepthwiseSeparable
from cnnjax.models.summary import count_macs
from cnnjax.nn import BatchNorm, Conv
from cnnjax.nn.building import ClassifierHead, ConvNorm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 224
# Table 4: multiply-adds (1e6) and parameters (1e6).
PAPER = {"full": (4866, 29.3), "separable": (569, 4.2)}
# "About one point" of accuracy is at most so many.
COST = 1.5
# Widths and strides of the small twins.
SMALL_STEM, SMALL = 16, ((32, 2), (32, 1), (64, 2), (64, 1))
LAYERS: dict[str, Any] = {
    "conv": partial(Conv, use_bias=False),
    "norm": BatchNorm,
    "padding": "symmetric",
    "activation": nn.relu6,
}


class FullMobileNet(nn.Module):
    """MobileNet with a full 3x3 convolution in place of each depthwise and pointwise pair.

    Source: Howard et al. 2017, arXiv:1704.04861, table 4, "Conv MobileNet".

    Args:
      images: float[batch, height, width, channels].
      train: normalise with the batch's statistics.
    Returns:
      float32[batch, 1000] logits.
    """

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        x = full(STEM_FEATURES, 2)(images, train)
        for features, strides in TABLE_1:
            x = full(features, strides)(x, train)
        return ClassifierHead(1000, dropout_rate=0.0)(x, train)


def full(features: int, strides: int) -> ConvNorm:
    """Return a full 3x3 convolution, normalised and activated."""
    return ConvNorm(features, kernel_size=3, strides=strides, **LAYERS)


class SmallTwin(nn.Module):
    """A small MobileNet, or its twin of full convolutions.

    Args:
      images: float[batch, height, width, channels].
      train: normalise with the batch's statistics.
    Returns:
      float32[batch, num_classes] logits.
    """

    num_classes: int
    separable: bool

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Return the logits of ``images``."""
        x = full(SMALL_STEM, 1)(images, train)
        for features, strides in SMALL:
            x = (separable if self.separable else full)(features, strides)(x, train)
        return ClassifierHead(self.num_classes, dropout_rate=0.0)(x, train)


def separable(features: int, strides: int) -> DepthwiseSeparable:
    """Return a depthwise and a pointwise convolution, normalised and activated each."""
    return DepthwiseSeparable(features, strides, dilation=1, **LAYERS)


def measure(setting: Setting) -> Numbers:
    """Count, and train both small twins."""
    data = load_arrays(setting)
    steps = 5 if setting.quick else 250
    twins = {}
    for kind in PAPER:
        model = SmallTwin(data.num_classes, kind == "separable")
        fits = fit_arrays(model, data, optax.adam(3e-3), setting.seeds, steps=steps)
        twins[kind] = {"macs": count_macs(model, data.train_images.shape[1:]), "accuracy": fits.test_accuracy}
    return {**counts(), "dataset": data.name, "twins": twins}


def counts() -> Numbers:
    """Count both networks, and each pair of convolutions against the full one."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    networks = {}
    for kind, network in (("full", FullMobileNet()), ("separable", create_model("mobilenet_v1"))):
        params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
        networks[kind] = {
            "macs": count_macs(network, (SIZE, SIZE, 3)),
            "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        }
    layers = []
    size, channels = SIZE // 2, STEM_FEATURES
    for features, strides in TABLE_1:
        shape = (size, size, channels)
        macs = [count_macs(make(features, strides), shape, train=False) for make in (full, separable)]
        layers.append({"features": features, "full": macs[0], "separable": macs[1]})
        size, channels = -(-size // strides), features
    return {"networks": networks, "layers": layers}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the whole network, and each layer to the nearest whole number, needs 8 to 9 times less.

    And whether the small twin with separable convolutions is at most about a point less accurate.
    """
    large, small = (numbers["networks"][kind] for kind in ("full", "separable"))
    ratio = large["macs"] / small["macs"]
    ratios = [row["full"] / row["separable"] for row in numbers["layers"]]
    twins = numbers["twins"]
    cost = np.mean(twins["full"]["accuracy"]) - np.mean(twins["separable"]["accuracy"])
    return Verdict(
        8 <= ratio <= 9 and all(8 <= round(each) <= 9 for each in ratios) and bool(cost <= COST),
        f"{large['macs'] / 1e6:,.0f} million multiply-adds fall to {small['macs'] / 1e6:,.0f}, {ratio:.2f} times "
        f"fewer (table 4: {PAPER['full'][0]:,} and {PAPER['separable'][0]}), and {large['params'] / 1e6:.1f} million "
        f"parameters to {small['params'] / 1e6:.1f} ({PAPER['full'][1]} and {PAPER['separable'][1]}); layers need "
        f"{min(ratios):.1f} to {max(ratios):.1f} times fewer (counts, no spread); of small such networks, the full one "
        f"({twins['full']['macs'] / 1e6:.2f} million multiply-adds) classifies "
        f"{shown(twins['full']['accuracy'])} % of {numbers['dataset']} right, the separable one "
        f"({twins['separable']['macs'] / 1e6:.2f} million) {shown(twins['separable']['accuracy'])} %",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw both counts of each layer, and their ratio."""
    left, middle, right = figure.subplots(1, 3)
    layers = numbers["layers"]
    places = range(1, len(layers) + 1)
    for offset, kind, label in ((-0.2, "full", "full 3x3"), (0.2, "separable", "depthwise and pointwise")):
        left.bar([place + offset for place in places], [row[kind] / 1e6 for row in layers], 0.4, label=label)
    frame(left, xlabel="layer of MobileNet", ylabel="multiply-adds, millions", ylim=(0, 600))
    middle.plot(places, [row["full"] / row["separable"] for row in layers], "o-")
    middle.axhspan(8, 9, color="tab:green", alpha=0.2, label="8 to 9")
    frame(middle, xlabel="layer of MobileNet", ylabel="times fewer", ylim=(7, 9.5))
    seed_dots(right, {kind: row["accuracy"] for kind, row in numbers["twins"].items()})
    frame(right, legend=False, ylabel="test accuracy (%)", title=f"small twins on {numbers['dataset']}")


CLAIM = Claim(
    name="depthwise",
    statement="Depthwise separable convolutions with 3x3 windows take 8 to 9 times fewer operations than full ones, "
    "for about one point of accuracy.",
    source="Howard et al. 2017, arXiv:1704.04861, section 3.1 and table 4",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(12.0, 3.8),
)
