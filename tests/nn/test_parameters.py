import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax.nn import BatchNorm, Conv


@pytest.mark.parametrize("layer", [Conv(3, (3, 3)), BatchNorm(use_running_average=True)], ids=["Conv", "BatchNorm"])
def test_parameters_of_another_shape_are_refused_by_name(layer):
    x = jnp.ones((1, 4, 4, 3))
    variables = layer.init(jax.random.key(0), x)
    bias = variables["params"]["bias"]
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r'"bias".*\(7,\)'):
        layer.apply({**variables, "params": {**variables["params"], "bias": jnp.ones(7)}}, x)
    assert layer.apply(variables, x).shape == (1, 4, 4, bias.size)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = Conv(3, (3, 3), name="conv1")(x)
        return x


def test_missing_parameters_and_names_taken_twice_are_refused_as_in_flax():
    x = jnp.ones((1, 4, 4, 3))
    layer = Conv(3, (3, 3))
    variables = layer.init(jax.random.key(0), x)
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="kernel"):
        layer.apply({"params": {"bias": jnp.ones(3)}}, x)
    with pytest.raises(flax.errors.NameInUseError, match="conv1"):
        Twice().apply({"params": {"conv1": variables["params"]}}, x)
