"""Maximum and sum of windows: the values and derivatives of `jax.lax.reduce_window`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from cnnjax.nn.window_pool import MAX_TAPS, _max_gradient_on_gpu, max_gradient_p, window_max, window_sum

CASES = [
    # window, strides, padding, size
    ((2, 2), (2, 2), ((0, 0), (0, 0)), (6, 7)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (7, 8)),
    ((3, 2), (1, 3), ((0, 1), (2, 0)), (5, 9)),
    ((5, 5), (3, 3), ((2, 3), (1, 2)), (9, 8)),
    ((6, 6), (1, 1), ((0, 0), (0, 0)), (7, 7)),
]
POOLS = {"max": (window_max, lax.max, -jnp.inf), "sum": (window_sum, lax.add, 0.0)}


def native(kind, window, strides, padding):
    _, combine, start = POOLS[kind]
    return lambda x: lax.reduce_window(x, start, combine, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_derivatives_are_those_of_reduce_window(kind, case, compile_quickly):
    window, strides, padding, size = case
    assert (np.prod(window) > MAX_TAPS) == (case is CASES[-1])
    x, tangent, other = (draw((2, *size, 3), seed) for seed in range(3))

    def results(pool):
        def compute(x, tangent, other):
            y, y_dot = jax.jvp(pool, (x,), (tangent,))
            gradient = jax.grad(lambda x: (jnp.sin(pool(x)) * (1 + y_dot)).sum())
            # Through a pooling of a pooling's gradient: forward over reverse.
            return y, y_dot, gradient(x), jax.jvp(gradient, (x,), (other,))[1]

        return compile_quickly(compute, x, tangent, other)(x, tangent, other)

    ours = results(lambda x: POOLS[kind][0](x, window, strides, padding))
    for mine, theirs in zip(ours, results(native(kind, window, strides, padding)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", POOLS)
def test_maps_over_examples_devices_and_half_precision(kind, compile_quickly):
    window, strides, padding, size = CASES[1]
    x, pool = draw((3, 2, *size, 3), 0), POOLS[kind][0]

    def gradient(x):
        return jax.grad(lambda x: (pool(x, window, strides, padding) ** 2).sum())(x)

    expected = jnp.stack([gradient(part) for part in x])
    np.testing.assert_allclose(
        compile_quickly(jax.vmap(gradient, 1, 1), x.swapaxes(0, 1))(x.swapaxes(0, 1)),
        expected.swapaxes(0, 1),
        rtol=1e-6,
    )
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=P("devices"), out_specs=P("devices")))
    np.testing.assert_allclose(sharded(x[0]), expected[0], rtol=1e-6)
    half = gradient(x[0].astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected[0], atol=0.01 * jnp.abs(expected[0]).max())


OPERATIONS = ("reduce_window", "select_and_scatter", "gather", "slice", "pad", "select")


def operations_of(function, platform, size):
    """Return how often a function's program for a platform has each operation, by name."""
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    text = jax.export.export(jax.jit(function), platforms=[platform])(images).mlir_module()
    return {name: text.count(f"stablehlo.{name}") for name in OPERATIONS}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("kind", POOLS)
def test_accelerators_get_the_native_operations_and_nothing_else(platform, kind):
    window, strides, padding, size = CASES[1]

    def program(pool):
        if (platform, kind) == ("cuda", "max"):
            return operations_of(pool, platform, size)
        return operations_of(lambda x: jax.grad(lambda x: pool(x).sum())(x), platform, size)

    assert program(lambda x: POOLS[kind][0](x, window, strides, padding)) == program(
        native(kind, window, strides, padding)
    )


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_the_gradient_of_a_maximum_scatters_nothing_on_gpus_and_has_the_same_bits(case, compile_quickly):
    window, strides, padding, size = case
    params = {"window": window, "strides": strides, "padding": padding}

    def gradient(x):
        return jax.grad(lambda x: (window_max(x, **params) ** 2).sum())(x)

    assert operations_of(gradient, "cuda", size)["select_and_scatter"] == 0
    # Of few numbers, so that windows have several maxima.
    x = jnp.round(draw((2, *size, 3), 0))
    y, cotangent = window_max(x, **params), draw(window_max(x, **params).shape, 1)
    assert (y == 0).any()
    theirs, ours = (
        compile_quickly(lambda x, ct, form=form: form(x, ct, **params), x, cotangent)(x, cotangent)
        for form in (max_gradient_p.bind, _max_gradient_on_gpu)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_first_of_equal_maxima_takes_the_gradient_and_the_tangent():
    x = jnp.asarray([[2.0, 1.0, 2.0], [1.0, 2.0, 2.0], [2.0, 2.0, 0.0]]).reshape(1, 3, 3, 1)
    tangent = jnp.arange(9.0).reshape(x.shape)

    def pool(x):
        return window_max(x, (2, 2), (1, 1), ((0, 0), (0, 0)))

    # The maxima of the four windows are at pixels 0, 2, 4 and 4, row by row.
    gradient = jax.grad(lambda x: (pool(x) * jnp.asarray([1.0, 10.0, 100.0, 1000.0]).reshape(1, 2, 2, 1)).sum())(x)
    np.testing.assert_array_equal(gradient.reshape(9), [1, 0, 10, 0, 1100, 0, 0, 0, 0])
    np.testing.assert_array_equal(jax.jvp(pool, (x,), (tangent,))[1].reshape(4), [0, 2, 4, 4])


def test_of_a_window_with_nan_the_first_nan_takes_the_gradient():
    x = jnp.asarray([[1.0, jnp.nan, 5.0], [jnp.nan, 2.0, 3.0], [0.0, 4.0, 6.0]])[None, :, :, None]
    cotangent = jnp.asarray([[10.0, 20.0], [30.0, 40.0]])[None, :, :, None]
    _, vjp = jax.vjp(lambda x: window_max(x, (2, 2), (1, 1), ((0, 0), (0, 0))), x)
    gradient = vjp(cotangent)[0][0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[0, 30, 0], [30, 0, 0], [0, 0, 40]])


def test_gradients_of_float64_keep_their_precision():
    with jax.enable_x64(True):
        x = jnp.arange(9.0).reshape(1, 3, 3, 1)
        cotangent = jnp.full((1, 2, 2, 1), 1 / 3)
        _, vjp = jax.vjp(lambda x: window_max(x, (2, 2), (1, 1), ((0, 0), (0, 0))), x)
        assert vjp(cotangent)[0][0, 2, 2, 0] == 1 / 3


def test_padding_never_wins_and_nan_shows():
    x = jnp.full((1, 2, 2, 1), -jnp.inf).at[0, 1, 1, 0].set(jnp.nan)
    y = window_max(x, (2, 2), (1, 1), ((1, 0), (1, 0)))
    assert np.isnan(y[0, 1, 1, 0])
    assert y[0, 0, 0, 0] == -jnp.inf
