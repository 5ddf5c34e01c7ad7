"""Initial values are numbers of the libraries they stand in for."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn.initializers import variance_scaling


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3, 16, 24), (1, 1, 7, 5), (3, 2, 3, 2, 4)])
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_draws_are_bit_for_bit_those_of_flax(mode, distribution, shape, dtype):
    ours, flax = (
        scaling(1 / 3, mode, distribution)(jax.random.key(3), shape, dtype)
        for scaling in (variance_scaling, nn.initializers.variance_scaling)
    )
    assert ours.dtype == flax.dtype
    np.testing.assert_array_equal(ours, flax)


def test_what_has_no_inputs_is_refused():
    with pytest.raises(ValueError, match="1-dimensional"):
        variance_scaling(1.0, "fan_in", "normal")(jax.random.key(0), (3,))
