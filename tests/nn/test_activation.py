"""Activations against their formulas, as functions and, where there is one, as modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import nn

X = np.array([[-1000.0, -2.0, -0.5, 0.0, 0.5, 3.0]], np.float32)
POSITIVE = X > 0
NEGATIVE = np.minimum(X, 0).astype(np.float64)
CASES = {
    "identity": (nn.identity, nn.Identity(), X),
    "logistic": (nn.logistic, nn.Logistic(), 1 / (1 + np.exp(-np.maximum(X, -700.0).astype(np.float64)))),
    "tanh": (nn.tanh, nn.Tanh(), np.tanh(X)),
    "arctan": (nn.arctan, nn.Arctan(), np.arctan(X)),
    "relu": (nn.relu, nn.ReLU(), np.maximum(X, 0)),
    "leaky_relu": (lambda x: nn.leaky_relu(x, 0.2), nn.LeakyReLU(0.2), np.where(POSITIVE, X, 0.2 * X)),
    "relu6": (nn.relu6, None, np.clip(X, 0, 6)),
    "silu": (nn.silu, None, X / (1 + np.exp(-np.maximum(X, -700.0).astype(np.float64)))),
    "hard_sigmoid": (nn.hard_sigmoid, None, np.clip(X + 3, 0, 6) / 6),
    "hard_swish": (nn.hard_swish, None, X * np.clip(X + 3, 0, 6) / 6),
    "hard_tanh": (nn.hard_tanh, None, np.clip(X, -1, 1)),
    "celu": (lambda x: nn.celu(x, 2.0), None, np.where(POSITIVE, X, 2 * np.expm1(NEGATIVE / 2))),
    "selu": (nn.selu, None, 1.0507009873554805 * np.where(POSITIVE, X, 1.6732632423543772 * np.expm1(NEGATIVE))),
    "softplus": (nn.softplus, None, np.log1p(np.exp(np.maximum(X, -700.0).astype(np.float64)))),
    "soft_sign": (nn.soft_sign, None, X / (1 + np.abs(X))),
    "log_sigmoid": (nn.log_sigmoid, None, -np.logaddexp(0, -X.astype(np.float64))),
    "elu": (lambda x: nn.elu(x, 0.5), nn.ELU(0.5), np.where(POSITIVE, X, 0.5 * np.expm1(NEGATIVE))),
    "maxout": (lambda x: nn.maxout(x, 2), nn.Maxout(2), [[-2.0, 0.0, 3.0]]),
    "softmax": (nn.softmax, nn.Softmax(), np.exp(NEGATIVE * ~POSITIVE + X * POSITIVE) / np.exp(X).sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_function_and_module(name):
    function, module, expected = CASES[name]
    x = jnp.asarray(X)
    np.testing.assert_allclose(function(x), expected, rtol=1e-6, atol=1e-7)
    if module is not None:
        np.testing.assert_array_equal(module.apply({}, x), function(x))
    assert function(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert np.isfinite(jax.grad(lambda x: function(x).sum())(x)).all()


def test_defaults():
    x = jnp.asarray([-1.0])
    assert nn.leaky_relu(x) == nn.LeakyReLU().apply({}, x) == jnp.float32(-0.01)
    np.testing.assert_allclose(nn.elu(x), np.expm1(-1), rtol=1e-6)


@pytest.mark.parametrize("pieces", [0, 4])
def test_maxout_refuses_pieces_that_do_not_fit(pieces):
    with pytest.raises(ValueError, match=rf"pieces must be at least 1 and divide .*\(6\), got {pieces}"):
        nn.maxout(jnp.asarray(X), pieces)


def test_maxout_is_the_absolute_value_of_x_and_minus_x():
    x = jnp.asarray([[-2.0], [3.0]])
    assert nn.maxout(jnp.concatenate([x, -x], -1), 2).tolist() == [[2.0], [3.0]]
