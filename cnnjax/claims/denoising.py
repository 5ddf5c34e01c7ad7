"""Four small DnCNNs: predicting the noise or the image, with and without batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_curves
from cnnjax.claims.fitting import drawn, train_seeds
from cnnjax.claims.sets import TEST_PHOTOGRAPH, TRAIN_PHOTOGRAPH, sample_photograph
from cnnjax.data.photographs import grid_patches, random_patch, to_grey
from cnnjax.models.dncnn import DnCNN
from cnnjax.restoration import AddNoise, add_noise, psnr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Residual learning, batch normalisation.
NETWORKS = {
    "both": (True, True),
    "residual learning alone": (True, False),
    "batch norm alone": (False, True),
    "neither": (False, False),
}
# Standard deviation of the noise, grey levels of 255.
NOISE = 25.0
DEPTH, FEATURES = 7, 16
PATCH, PATCHES = 20, 512
TEST_PATCH, TEST_PATCHES = 64, 9
RECORD = 25


def measure(setting: Setting) -> Numbers:
    """Train each network on patches of one photograph, and measure on parts of another one as it learns."""
    generator = np.random.default_rng(0)
    photograph = to_grey(sample_photograph(TRAIN_PHOTOGRAPH))
    examples = {"image": np.stack([random_patch([photograph], PATCH, generator) for _ in range(PATCHES)])}
    tested = to_grey(sample_photograph(TEST_PHOTOGRAPH))
    clean = grid_patches(tested, TEST_PATCH, TEST_PATCHES).astype(np.float32) / 255
    noisy = add_noise(clean, NOISE, 0)
    options: Any = {"preprocess": AddNoise(NOISE, NOISE), "loss": "mse"}
    found = {}
    for name, (residual, batch_norm) in NETWORKS.items():
        model = DnCNN(depth=DEPTH, features=FEATURES, residual=residual, batch_norm=batch_norm)
        restore = jax.jit(model.apply)

        def quality(state: Any, restore: Any = restore) -> float:
            return psnr(np.asarray(restore(state.variables, noisy)), clean)

        found[name] = train_seeds(
            drawn(model, optax.adam(1e-3), clean[:1, :PATCH, :PATCH]),
            examples,
            setting.seeds,
            steps=RECORD if setting.quick else 300,
            batch_size=16,
            record=RECORD,
            watch=quality,
            **options,
        ).watched
    return {"noisy": psnr(noisy, clean), "psnr": found}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether both together are clearly better at the end than each alone, and than neither."""
    last = {name: [row[-1] for row in rows] for name, rows in numbers["psnr"].items()}
    rows = ", ".join(f"{name} {shown(values, 2)} dB" for name, values in last.items())
    steps = RECORD * len(numbers["psnr"]["both"][0])
    return Verdict(
        all(clearly_greater(last["both"], last[name]) for name in last if name != "both"),
        f"PSNR on parts of a photograph that was not trained on (noisy {numbers['noisy']:.2f} dB, noise of {NOISE:g}) "
        f"after {steps} steps: {rows}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw the PSNR against the step."""
    axes = figure.subplots()
    for place, (name, rows) in enumerate(numbers["psnr"].items()):
        seed_curves(axes, rows, RECORD, f"C{place}", name)
    axes.axhline(numbers["noisy"], color="tab:gray", linewidth=1, label="noisy")
    top = max(max(row) for rows in numbers["psnr"].values() for row in rows)
    frame(axes, xlabel="step", ylabel="PSNR (dB)", ylim=(min(numbers["noisy"], top) - 6, top + 1))


CLAIM = Claim(
    name="denoising",
    statement="A network that learns the noise (residual learning) and has batch normalisation removes noise better "
    "than one with either alone, or with neither.",
    source="Zhang et al. 2017, arXiv:1608.03981, section III.B",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(7.0, 4.2),
)
