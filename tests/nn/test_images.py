"""Padding to the sizes that networks take."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.nn.building import check_images, pad_to_legal_size


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 9))
def test_padded_images_are_legal_and_hold_the_image(height, width, min_size, size_step):
    images = np.random.default_rng(0).normal(size=(1, height, width, 1)).astype(np.float32)
    padded = pad_to_legal_size(images, min_size=min_size, size_step=size_step)
    check_images(padded, min_size=min_size, size_step=size_step)
    np.testing.assert_array_equal(padded[:, :height, :width], images)
    # The smallest legal one.
    for size, old in zip(padded.shape[1:3], (height, width), strict=True):
        assert size == min_size or size - size_step < old


def test_what_is_added_is_the_mirror_image():
    row = jnp.asarray([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    assert pad_to_legal_size(row, min_size=1, size_step=4).ravel().tolist() == [1, 2, 3, 3, 2]


def test_images_without_pixels_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(1, 0, 3, 1\)"):
        pad_to_legal_size(jnp.zeros((1, 0, 3, 1)), min_size=4)
