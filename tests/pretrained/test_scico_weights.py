"""The DnCNN weights of the package scico give what they give there; runs with ``pytest -m pretrained``.

Needs ``pip install --no-deps scico==0.0.7``: the package itself asks for an older JAX.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.data.photographs import load_photograph
from cnnjax.pretrained import load

pytestmark = pytest.mark.pretrained

# By scico_reference.py.
REFERENCE = Path(__file__).with_name("scico_reference.npz")
THEIRS = {"padding": "CIRCULAR", "epsilon": 1e-5}


def weights(level):
    """Return the file of one noise level; the package itself needs an older JAX and is not imported."""
    package = importlib.util.find_spec("scico").submodule_search_locations[0]
    return Path(package) / "data" / "flax" / f"dncnn17{level}.mpk"


@pytest.mark.parametrize("level", ["L", "M", "H"])
def test_outputs_are_theirs(level):
    variables = load("dncnn17_grey", weights(level), **THEIRS)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 556_032
    with np.load(REFERENCE) as reference:
        images, expected = reference["images"], reference[level]
    outputs = cnnjax.create_model("dncnn17_grey", **THEIRS).apply(variables, images)
    np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_a_photograph_is_denoised():
    clean = load_photograph("camera")[150:278, 150:278].astype(np.float32) / 255
    noisy = clean + np.random.default_rng(0).normal(0, 0.1, clean.shape).astype(np.float32)
    variables = load("dncnn17_grey", weights("M"), **THEIRS)
    outputs = cnnjax.create_model("dncnn17_grey", **THEIRS).apply(variables, noisy[None])[0]
    before, after = (-10 * np.log10(np.mean((image - clean) ** 2)) for image in (noisy, np.asarray(outputs)))
    assert abs(before - 20) < 0.2
    assert after > 27
