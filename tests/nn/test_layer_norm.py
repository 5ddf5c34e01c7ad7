import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import LayerNorm


def test_it_is_linens_in_float32_and_also_takes_bfloat16():
    x = 3 + jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    params = {"scale": jnp.arange(8.0), "bias": jnp.ones(8)}
    expected = nn.LayerNorm().apply({"params": params}, x)
    np.testing.assert_allclose(LayerNorm().apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)
    half = LayerNorm(dtype=jnp.bfloat16).apply({"params": params}, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.15)


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="reduction_axes=-1.*got 1"):
        LayerNorm(reduction_axes=1).init(jax.random.key(0), jnp.ones((2, 3)))
