"""Standard deviations of activations and gradients, layer by layer, as a deep network starts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import fast_compilation
from cnnjax.models import create_model
from cnnjax.nn import relu, tanh, torch_uniform
from cnnjax.training.losses import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GLOROT, HE = nn.initializers.glorot_uniform(), nn.initializers.he_normal()
# Activation, how kernels start, and whether that keeps variances, as the papers say.
CASES: dict[str, tuple[Any, Any, bool]] = {
    "tanh, Glorot": (tanh, GLOROT, True),
    "ReLU, He": (relu, HE, True),
    "tanh, within 1/sqrt(n)": (tanh, torch_uniform, False),
    "ReLU, Glorot": (relu, GLOROT, False),
}
# Deviations are kept if their mean factor from one layer to the next is between these.
KEPT = (0.8, 1.25)
SIDE = 16


def deviations(case: str, depth: int, key: jax.Array) -> dict[str, jax.Array]:
    """Return the standard deviation of activations, and of the loss's gradients at their inputs: float[depth] each.

    All layers have as many units as inputs, and inputs are normal noise, as the derivations assume.
    """
    activation, kernel_init, _ = CASES[case]
    model = create_model("mlp", features=(SIDE**2,) * depth, activation=activation, kernel_init=kernel_init)
    image_key, label_key, init_key = jax.random.split(key, 3)
    images = jax.random.normal(image_key, (128, SIDE, SIDE, 1))
    labels = jax.random.randint(label_key, (128,), 0, 10)
    params = model.init(init_key, images)["params"]
    _, state = model.apply(
        {"params": params},
        images,
        capture_intermediates=lambda module, method: len(module.path) == 1,
        mutable=["intermediates"],
    )

    def loss(params: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        return cross_entropy(jnp.asarray(model.apply({"params": params}, image[None])), label[None])[0]

    # Of one example, a bias's gradient is that of the sum it is added to. What belongs to kernels is not computed.
    grads = jax.vmap(jax.grad(loss), (None, 0, 0))(params, images, labels)
    stages = [f"stage{index}" for index in range(1, depth + 1)]
    return {
        "activations": jnp.stack([state["intermediates"][stage]["__call__"][0].std() for stage in stages]),
        "gradients": jnp.stack([grads[stage]["dense1"]["bias"].std() for stage in stages]),
    }


def measure(setting: Setting) -> Numbers:
    """Draw each network once for each seed."""
    depth = 4 if setting.quick else 20
    keys = jax.vmap(jax.random.key)(jnp.asarray(setting.seeds))
    cases = {}
    for case in CASES:
        run = jax.jit(jax.vmap(partial(deviations, case, depth)), compiler_options=fast_compilation())
        found = run(keys)
        cases[case] = {name: np.asarray(values, np.float64).tolist() for name, values in found.items()}
    return {"depth": depth, "cases": cases}


def factors(values: list[list[float]], *, backwards: bool) -> list[float]:
    """Return, for each seed, the mean factor from one layer to the next, in the direction of the pass."""
    array = np.asarray(values)
    ends = array[:, 0] / array[:, -1] if backwards else array[:, -1] / array[:, 0]
    return (ends ** (1 / (array.shape[1] - 1))).tolist()


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the recommended pairs keep standard deviations for every seed, and the others do not."""
    holds, reasons = True, []
    for case, (_, _, keeps) in CASES.items():
        found = [factors(numbers["cases"][case]["activations"], backwards=False)]
        found.append(factors(numbers["cases"][case]["gradients"], backwards=True))
        kept = all(KEPT[0] <= factor <= KEPT[1] for values in found for factor in values)
        holds &= kept == keeps
        forward, backward = (f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for values in found)
        reasons.append(f"{case}: {forward} forwards, {backward} backwards")
    return Verdict(
        holds,
        f"factor of the standard deviation from one of {numbers['depth']} layers to the next, of activations forwards "
        f"and of gradients backwards ({KEPT[0]} to {KEPT[1]} counts as kept): {'; '.join(reasons)}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw standard deviations by layer, one line per seed."""
    for axes, name in zip(figure.subplots(1, 2), ("activations", "gradients"), strict=True):
        for place, case in enumerate(CASES):
            seed_curves(axes, numbers["cases"][case][name], 1, f"C{place}", case)
        frame(axes, yscale="log", xlabel="layer", ylabel=f"standard deviation of {name}")
        axes.locator_params(axis="x", integer=True)


CLAIM = Claim(
    name="initialization",
    statement="Glorot's initialisation keeps the variances of activations and gradients from layer to layer under "
    "tanh, and He's under ReLU; what was usual before does not, nor does Glorot's under ReLU.",
    source="Glorot and Bengio 2010, AISTATS, section 4.2; He et al. 2015, arXiv:1502.01852, section 2.2",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(10.0, 4.0),
)
