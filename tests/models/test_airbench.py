"""Airbench beyond what every network is tested for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.models.views import over_views

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def test_groups_have_two_or_three_convolutions():
    model = cnnjax.create_model("airbench94", convolutions=4)
    with pytest.raises(ValueError, match="convolutions of a group must be 2 or 3, got 4"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_it_starts_from_identities_and_learns_no_scales():
    model = cnnjax.create_model("airbench94", widths=(4, 6, 6))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros(IMAGES.shape))
    kernel = variables["params"]["stage2"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel[1, 1], np.eye(6))
    assert set(variables["params"]["stage1"]["norm1"]) == {"bias"}


def test_views_are_averaged_as_they_are_weighed():
    """A network that reads one pixel shows which pixels its views have in that place."""
    images = np.random.default_rng(0).normal(size=(2, 4, 5, 1)).astype(np.float32)

    def corner(images):
        return images[:, 0, 0]

    means = {
        "none": images[:, 0, 0],
        "mirror": (images[:, 0, 0] + images[:, 0, 4]) / 2,
        # Reflected about the border, the image's neighbours of the corners are at 1 and, seen from the right, at 3.
        "mirror-shift": (images[:, 0, 0] + images[:, 0, 4]) / 4
        + (images[:, 1, 1] + images[:, 1, 3] + images[:, 1, 1] + images[:, 1, 3]) / 8,
    }
    for views, expected in means.items():
        np.testing.assert_allclose(over_views(corner, jnp.asarray(images), views), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="one of none, mirror, mirror-shift, got 'five'"):
        over_views(corner, jnp.asarray(images), "five")
