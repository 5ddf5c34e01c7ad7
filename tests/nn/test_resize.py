import jax.numpy as jnp
import numpy as np

from cnnjax.nn import resize_bilinear


def test_pixels_are_areas_and_edges_are_clipped():
    # PyTorch: interpolate([0, 1], size=4 and 5, mode="linear", align_corners=False).
    row = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(resize_bilinear(row, (1, 4)).ravel(), [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(resize_bilinear(row, (1, 5)).ravel(), [0, 0.1, 0.5, 0.9, 1], atol=1e-7)


def test_smaller_results_read_and_do_not_average():
    row = jnp.arange(6.0).reshape(1, 6, 1, 1)
    np.testing.assert_allclose(resize_bilinear(row, (2, 1)).ravel(), [1, 4])


def test_one_pixel_fills_the_map_in_its_type():
    out = resize_bilinear(jnp.full((2, 1, 1, 3), 0.5, jnp.bfloat16), (4, 5))
    assert out.shape == (2, 4, 5, 3)
    assert out.dtype == jnp.bfloat16
    assert (out == 0.5).all()
