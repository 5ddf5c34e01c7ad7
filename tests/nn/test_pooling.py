import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool


def windows(size, window, stride, low, high, ceil_mode):
    """Return, for one dimension, the (start, stop) of each window in the coordinates of the unpadded input."""
    span = size + low + high - window
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + low:
        count -= 1
    return [(i * stride - low, i * stride - low + window) for i in range(count)]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize("size", [7, 8, 9])
def test_pooling_equals_its_definition(size, window, stride, padding, ceil_mode):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, size, size, 3)))
    spans = windows(size, window, stride, padding, padding, ceil_mode)
    n = len(spans)
    expected = {kind: np.zeros((2, n, n, 3)) for kind in ("max", "with padding", "without padding")}
    for i, (top, bottom) in enumerate(spans):
        for j, (left, right) in enumerate(spans):
            part = x[:, max(top, 0) : bottom, max(left, 0) : right]
            expected["max"][:, i, j] = part.max((1, 2))
            # What ceil_mode adds beyond the declared padding never counts.
            declared = (min(bottom, size + padding) - top) * (min(right, size + padding) - left)
            expected["with padding"][:, i, j] = part.sum((1, 2)) / declared
            expected["without padding"][:, i, j] = part.mean((1, 2))
    options = {"padding": padding, "ceil_mode": ceil_mode}
    np.testing.assert_array_equal(max_pool(x, window, stride, **options), expected["max"].astype(np.float32))
    np.testing.assert_allclose(avg_pool(x, window, stride, **options), expected["with padding"], atol=1e-6)
    np.testing.assert_allclose(
        avg_pool(x, window, stride, count_include_pad=False, **options), expected["without padding"], atol=1e-6
    )


def test_same_padding_is_tensorflows():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x, 3, 2, "SAME")[0, :, :, 0], [[10, 11], [14, 15]])
    np.testing.assert_allclose(avg_pool(x, 3, 2, "SAME", count_include_pad=False)[0, :, :, 0], [[5, 6.5], [11, 12.5]])


def test_gradients_and_types():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    for pool in (max_pool, avg_pool):
        grads = jax.grad(lambda x, pool=pool: pool(x, 2).sum())(x)
        assert np.isfinite(grads).all()
        np.testing.assert_allclose(grads.sum(), 2 * 3 * 3 * 3, rtol=1e-5)
        assert pool(x.astype(jnp.bfloat16), 2).dtype == jnp.bfloat16
    assert global_avg_pool(x).shape == (2, 3)


def test_windows_larger_than_the_input_are_refused():
    with pytest.raises(ValueError, match=r"window \(5, 5\) does not fit.*\(4, 4\)"):
        max_pool(jnp.zeros((1, 4, 4, 1)), 5)


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
