"""Kernels that a network starts from: filters that whiten, and filters that hand their inputs through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.nn import dirac, torch_uniform, whitening_kernel
from cnnjax.nn.initialization import redraw_kernels


def convolve(images, kernel):
    dimensions = lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=dimensions, precision="highest")


@pytest.fixture(scope="module")
def images():
    """Return images whose neighbouring pixels and channels are alike, in more parts than are taken at once."""
    noise = np.random.default_rng(0).normal(size=(600, 9, 10, 4)).astype(np.float32)
    smooth = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, :-1, :-1]
    return smooth[..., 1:] + smooth[..., :-1]


def test_whitened_patches_have_the_identity_as_second_moments(images):
    kernel = whitening_kernel(images, (2, 2), 24, epsilon=0)
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    rows = np.asarray(convolve(images, kernel)).reshape(-1, 24)[:, :12]
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(12), atol=2e-3)
    # Those of the largest eigenvalues come first, and are all that a layer of fewer filters has.
    norms = np.linalg.norm(kernel[..., :12].reshape(12, 12), axis=0)
    assert (np.diff(norms) > 0).all()
    few = whitening_kernel(images, (2, 2), 6, epsilon=0)
    np.testing.assert_array_equal(few[..., :3], kernel[..., :3])
    # With an epsilon, directions of no variance are not blown up.
    still = whitening_kernel(np.ones((2, 4, 4, 3)), (2, 2), 24, epsilon=5e-4)
    assert np.abs(still).max() <= 5e-4**-0.5 * 1.001


def test_layers_that_cannot_whiten_are_refused(images):
    for features in (0, 5, 26):
        with pytest.raises(ValueError, match=f"even and at most 24, twice the 12 values of a patch, got {features}"):
            whitening_kernel(images, (2, 2), features)
    with pytest.raises(ValueError, match="images must have 9x2 pixels or more"):
        whitening_kernel(images, (9, 2), 24)


@pytest.mark.parametrize("window", [(3, 3), (2, 2), (5,)])
def test_first_filters_hand_inputs_through_and_the_others_are_drawn(window):
    kernel = dirac(jax.random.key(0), (*window, 3, 5), jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, *(7 for _ in window), 3)).astype(np.float32)
    spatial = "HW"[: len(window)]
    dimensions = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    y = lax.conv_general_dilated(x, kernel, (1,) * len(window), "SAME", dimension_numbers=dimensions)
    np.testing.assert_allclose(y[..., :3], x, rtol=1e-6)
    np.testing.assert_array_equal(kernel[..., 3:], torch_uniform(jax.random.key(0), (*window, 3, 5))[..., 3:])


def test_any_network_can_start_so():
    params = {"conv": {"kernel": jnp.zeros((3, 3, 4, 2))}, "dense": {"kernel": jnp.zeros((100, 30))}}
    drawn = redraw_kernels(params, jax.random.key(0), "dirac")
    np.testing.assert_array_equal(drawn["conv"]["kernel"][1, 1], np.eye(4, 2))
    assert float(jnp.abs(drawn["conv"]["kernel"]).sum()) == 2
    assert float(drawn["dense"]["kernel"].std()) == pytest.approx((1 / 300) ** 0.5, rel=0.05)
