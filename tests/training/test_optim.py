import numpy as np
import pytest

from cnnjax.training import make_optimizer, make_schedule


def test_schedules():
    constant = make_schedule("constant", 0.1, 100)
    np.testing.assert_allclose([constant(0), constant(99)], 0.1)
    cosine = make_schedule("cosine", 0.1, 110, warmup_steps=10)
    np.testing.assert_allclose(
        [cosine(0), cosine(5), cosine(10), cosine(60), cosine(110)], [0, 0.05, 0.1, 0.05, 0], atol=1e-8
    )
    steps = make_schedule("multistep", 0.1, 100)
    np.testing.assert_allclose([steps(49), steps(50), steps(74), steps(75)], [0.1, 0.01, 0.01, 0.001], rtol=1e-5)
    warm = make_schedule("multistep", 0.1, 100, warmup_steps=10)
    np.testing.assert_allclose([warm(5), warm(49), warm(50), warm(75)], [0.05, 0.1, 0.01, 0.001], rtol=1e-5)


def test_impossible_ones_are_refused():
    with pytest.raises(ValueError, match="warm-up of 10 steps leaves nothing of a run of 10"):
        make_schedule("cosine", 0.1, 10, warmup_steps=10)
    with pytest.raises(ValueError, match="constant, cosine, multistep, got 'linear'"):
        make_schedule("linear", 0.1, 10)
    with pytest.raises(ValueError, match="sgd, adam, adamw, got 'lion'"):
        make_optimizer("lion", 0.1)
