"""Dense layers over pixels are those of Flax, computed as products of matrices."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import Dense


def dots(program: jax.extend.core.Jaxpr) -> list[jax.extend.core.JaxprEqn]:
    return [equation for equation in program.eqns if equation.primitive.name == "dot_general"]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 4, 3, 5), (2, 2, 4, 3, 5)])
def test_values_and_gradients_are_those_of_flax(shape):
    x, target = (jax.random.normal(jax.random.key(seed), (*shape[:-1], n)) for seed, n in ((0, shape[-1]), (1, 7)))
    ours, flax = Dense(7), nn.Dense(7)
    variables = flax.init(jax.random.key(2), x)

    def loss(layer: nn.Module, variables, x):
        return ((layer.apply(variables, x) - target) ** 2).mean()

    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(2), x)) == jax.tree.map(jnp.shape, variables)
    value, expected = (jax.value_and_grad(loss, argnums=(1, 2))(layer, variables, x) for layer in (ours, flax))
    for ours_leaf, leaf in zip(jax.tree.leaves(value), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours_leaf, leaf, rtol=1e-5, atol=1e-6)


def test_no_product_is_summed_over_several_axes():
    layer, x = Dense(7), jnp.ones((2, 4, 3, 5))
    variables = layer.init(jax.random.key(0), x)

    def gradients(layer: nn.Module):
        return jax.make_jaxpr(jax.grad(lambda variables, x: layer.apply(variables, x).sum(), argnums=(0, 1)))

    found = dots(gradients(layer)(variables, x).jaxpr)
    assert len(found) == 3
    assert all(dot.outvars[0].aval.ndim == 2 for dot in found)
    # Flax's own is, which is what this is for.
    assert any(
        len(dot.params["dimension_numbers"][0][0]) == 3 for dot in dots(gradients(nn.Dense(7))(variables, x).jaxpr)
    )
