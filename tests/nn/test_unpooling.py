import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.nn import max_pool, max_pool_with_indices, max_unpool


def test_pooled_values_are_the_maxima_and_go_back_to_their_places():
    x = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))
    pooled, indices = max_pool_with_indices(x, 2)
    np.testing.assert_array_equal(pooled, max_pool(x, 2, ceil_mode=True))
    back = max_unpool(pooled, indices, 2, (7, 10))
    assert back.shape == x.shape
    kept = back != 0
    assert kept.sum() == pooled.size
    np.testing.assert_array_equal(back[kept], x[kept])


def test_first_of_equal_maxima_is_meant_and_takes_the_gradient():
    x = jnp.zeros((1, 2, 2, 1))
    _, indices = max_pool_with_indices(x, 2)
    assert indices.ravel() == 0
    gradient = jax.grad(lambda x: max_pool_with_indices(x, 2)[0].sum())(x)
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])


def test_other_values_than_the_pooled_ones_are_placed():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    _, indices = max_pool_with_indices(x, 2)
    np.testing.assert_array_equal(indices.ravel(), [3, 3, 3, 3])
    out = max_unpool(jnp.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1), indices, 2, (4, 4))
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 0, 0, 0], [0, 1, 0, 2], [0, 0, 0, 0], [0, 3, 0, 4]])
