import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import adaptive_avg_pool, avg_pool, max_pool


@pytest.mark.parametrize("out_size", [(7, 7), (3, 2), (1, 1), (11, 5), (22, 3)])
def test_adaptive_average_takes_the_mean_of_each_bin(out_size):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 11, 5, 3)))
    height, width = out_size

    def span(index, outputs, inputs):
        return slice(math.floor(index * inputs / outputs), math.ceil((index + 1) * inputs / outputs))

    expected = np.array(
        [[x[:, span(i, height, 11), span(j, width, 5)].mean((1, 2)) for j in range(width)] for i in range(height)]
    )
    np.testing.assert_allclose(adaptive_avg_pool(x, out_size), expected.transpose(2, 0, 1, 3), atol=1e-6)


def test_adaptive_average_keeps_the_type_and_sums_in_float32():
    x = jnp.full((1, 300, 301, 1), 1.0078125, jnp.bfloat16)
    out = adaptive_avg_pool(x, 7)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, np.full((1, 7, 7, 1), 1.0078125, out.dtype))


def test_rounding_up_keeps_windows_that_only_start_in_the_input():
    x = jnp.asarray([[1.0, 4.0], [2.0, 3.0]]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(max_pool(x, 3, 2, ceil_mode=True), [[[[4.0]]]])
    np.testing.assert_array_equal(avg_pool(x, 3, 2, ceil_mode=True), [[[[2.5]]]])
    assert max_pool(jnp.zeros((1, 8, 7, 1)), 3, 2, ceil_mode=True).shape == (1, 4, 3, 1)
    with pytest.raises(ValueError, match="larger images"):
        max_pool(x[:, :1], 3, 2, ceil_mode=True)
    with pytest.raises(ValueError, match="larger images"):
        max_pool(x, 3, 2)
