"""The maps of captum and of PAIR's saliency for the same weights; generate.py writes the file."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import cnnjax
from cnnjax import explain

BASELINE = 0.25


class Network(nn.Module):
    """Network of generate.py."""

    @nn.compact
    def __call__(self, x):
        x = cnnjax.nn.max_pool(Block(4, name="conv1")(x), 2)
        x = cnnjax.nn.avg_pool(Block(5, name="conv2")(x), 2)
        return nn.Dense(3, name="dense")(x.reshape(len(x), -1))


class Block(nn.Module):
    """A convolution and a ReLU, whose output is what the references call a layer's."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(cnnjax.nn.Conv(self.features, (3, 3), name="conv")(x))


@pytest.fixture(scope="module")
def references():
    with np.load(Path(__file__).parent / "references.npz") as file:
        return dict(file)


CAPTUM = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"baseline": BASELINE, "steps": 20, "batch_size": 20},
    "guided_backprop": {},
    "deconvnet": {},
    "occlusion": {"baseline": BASELINE, "window": 4, "strides": 3},
    "grad_cam": {"layer": "conv2", "resize": False},
    "grad_cam_first": {"layer": "conv1", "resize": False},
}
SALIENCY = {
    "grad_cam": {"layer": "conv2", "resize": False},
    "occlusion": {"baseline": BASELINE, "window": 4, "strides": 1},
    "integrated_gradients": {"baseline": BASELINE, "steps": 300, "batch_size": 300},
    "smooth_grad": {"kind": "mean", "samples": 6, "noise": 0.2, "batch_size": 4},
    "smooth_grad_squared": {"kind": "squared", "samples": 6, "noise": 0.2, "batch_size": 4},
}


@pytest.fixture(scope="module")
def maps(references):
    """Return our maps by library and name; the noise of smooth_grad is that of the file."""
    flat = {name.removeprefix("params/"): array for name, array in references.items() if name.startswith("params/")}
    for layer in ("conv1", "conv2"):
        for leaf in ("kernel", "bias"):
            flat[f"{layer}/conv/{leaf}"] = flat.pop(f"{layer}/{leaf}")
    variables = {"params": traverse_util.unflatten_dict(flat, sep="/")}
    noise = jnp.asarray(references["noise"])
    numbers = jnp.arange(len(noise), dtype=jnp.uint32)
    keys = jax.random.wrap_key_data(jnp.stack([numbers, numbers], axis=-1))

    @jax.jit
    def compute(images, classes):
        found = {"scores": Network().apply(variables, images)}
        for library, methods in (("captum", CAPTUM), ("saliency", SALIENCY)):
            for name, fields in methods.items():
                method = getattr(explain, name.removesuffix("_first").removesuffix("_squared"))
                found[f"{library}/{name}"] = method(Network(), variables, images, classes, **fields)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "split", lambda key, count: keys)
        patch.setattr(jax.random, "normal", lambda key, shape, dtype: noise[jax.random.key_data(key)[0]])
        return jax.device_get(compute(references["images"], references["classes"]))


@pytest.mark.slow
def test_weights_are_the_same(references, maps):
    np.testing.assert_allclose(maps["scores"], references["scores"], atol=1e-5)


@pytest.mark.parametrize("name", [*(f"captum/{name}" for name in CAPTUM), "saliency/grad_cam"])
def test_maps_are_those_of_the_reference(references, maps, name):
    expected = references[name]
    np.testing.assert_allclose(maps[name].reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["smooth_grad", "smooth_grad_squared"])
def test_smooth_grad_with_given_noise_is_that_of_pairs_saliency(references, maps, name):
    np.testing.assert_allclose(maps[f"saliency/{name}"], references[f"saliency/{name}"], atol=1e-5, rtol=1e-4)


def test_occlusion_of_pairs_saliency_sums_over_the_windows_that_cover_a_pixel(references, maps):
    fall = maps["saliency/occlusion"]
    rows, columns = (np.convolve(np.ones(size - 3), np.ones(4)) for size in fall.shape[1:])
    sums = (fall * rows[:, None] * columns[None, :])[..., None]
    np.testing.assert_allclose(sums, references["saliency/occlusion"], atol=1e-4, rtol=1e-4)


def test_integrated_gradients_of_pairs_saliency_are_a_mean_over_equally_spaced_points(references, maps):
    found, expected = maps["saliency/integrated_gradients"], references["saliency/integrated_gradients"]
    np.testing.assert_allclose(found, expected, atol=2e-3)
