import jax
import numpy as np
import pytest

from cnnjax.nn import StochasticDepth
from cnnjax.nn.building import stochastic_depth_rates


def test_branches_are_dropped_whole_and_scaled():
    x = jax.random.normal(jax.random.key(0), (256, 2, 2, 3))
    y = StochasticDepth(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    dropped = np.all(np.asarray(y) == 0, axis=(1, 2, 3))
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.75, rtol=1e-6)
    assert 0.15 < dropped.mean() < 0.35
    np.testing.assert_array_equal(StochasticDepth(0.25).apply({}, x, train=False), x)


def test_rates_rise_linearly_over_all_blocks():
    rates = stochastic_depth_rates(0.4, (2, 3))
    assert [len(stage) for stage in rates] == [2, 3]
    np.testing.assert_allclose(np.concatenate(rates), [0, 0.1, 0.2, 0.3, 0.4])


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="below 1, got 1.0"):
        StochasticDepth(1.0).apply({}, np.zeros((1, 1, 1, 1), np.float32), train=False)
