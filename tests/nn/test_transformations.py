"""Every operation of ours under JAX's transformations and modes: what `jax.lax` gives without them."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnjax.nn import avg_pool, max_pool
from cnnjax.nn.convolve import conv_general_dilated, conv_transpose
from cnnjax.nn.dense import matrix_dot_general

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(convolve, strides=(1, 1), groups=1):
    return lambda x, w: convolve(x, w, strides, "SAME", dimension_numbers=LAYOUT, feature_group_count=groups)


def pooling(start, combine, scale):
    def pool(x, w):
        y = lax.reduce_window(x, start, combine, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        return y * scale * w.sum()

    return pool


PADS = ((1, 1), (1, 1))
# name -> (shape of the kernel, ours, that of jax.lax); each form that a CPU has is there.
OPERATIONS = {
    "dense": ((3, 3, 4, 4), convolution(conv_general_dilated, (2, 2)), convolution(lax.conv_general_dilated, (2, 2))),
    # Over maps that are not small.
    "loop": ((3, 3, 4, 4), convolution(conv_general_dilated), convolution(lax.conv_general_dilated)),
    "first": ((3, 3, 4, 8), convolution(conv_general_dilated), convolution(lax.conv_general_dilated)),
    "last": ((3, 3, 4, 2), convolution(conv_general_dilated), convolution(lax.conv_general_dilated)),
    "depthwise": (
        (3, 3, 1, 4),
        convolution(conv_general_dilated, groups=4),
        convolution(lax.conv_general_dilated, groups=4),
    ),
    "lanes": (
        (3, 3, 2, 32),
        convolution(conv_general_dilated, groups=16),
        convolution(lax.conv_general_dilated, groups=16),
    ),
    "blocks": (
        (3, 3, 2, 4),
        convolution(conv_general_dilated, groups=2),
        convolution(lax.conv_general_dilated, groups=2),
    ),
    "pointwise": ((1, 1, 4, 4), convolution(conv_general_dilated), convolution(lax.conv_general_dilated)),
    "transposed": (
        (3, 3, 4, 4),
        lambda x, w: conv_transpose(x, w, (2, 2), "SAME"),
        lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=LAYOUT),
    ),
    "over pixels": (
        (4, 5),
        functools.partial(matrix_dot_general, dimension_numbers=(((3,), (0,)), ((), ()))),
        functools.partial(lax.dot_general, dimension_numbers=(((3,), (0,)), ((), ()))),
    ),
    "max": ((3, 3, 4, 4), lambda x, w: max_pool(x, 3, 2, PADS) * w.sum(), pooling(-jnp.inf, lax.max, 1)),
    "average": ((3, 3, 4, 4), lambda x, w: avg_pool(x, 3, 2, PADS) * w.sum(), pooling(0.0, lax.add, 1 / 9)),
}


def arrays(name):
    kernel = OPERATIONS[name][0]
    draw = np.random.default_rng(0).normal
    side = 9 if name in ("loop", "first", "last") else 4
    return draw(size=(4, side, side, 32 if name == "lanes" else 4)), draw(size=kernel)


def with_gradients(function):
    """Return (x, w) -> the value and both gradients of a sum of its sines."""

    def compute(x, w):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(jnp.cos(y))

    return compute


@functools.cache
def expected(name):
    """Return what `jax.lax` gives in float64, untransformed."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(with_gradients(OPERATIONS[name][2]))(*map(jnp.asarray, arrays(name))))


def on_mesh(kind, x, w):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,))
    return (
        mesh,
        jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch"))),
        jax.device_put(w, NamedSharding(mesh, PartitionSpec())),
    )


def without_jit(function, x, w):
    with jax.disable_jit():
        return with_gradients(function)(x, w)


def divided_explicitly(function, x, w):
    _, x, w = on_mesh(AxisType.Explicit, x, w)
    return jax.jit(with_gradients(function))(x, w)


def divided_explicitly_eagerly(function, x, w):
    _, x, w = on_mesh(AxisType.Explicit, x, w)
    return with_gradients(function)(x, w)


def divided_automatically(function, x, w):
    _, x, w = on_mesh(AxisType.Auto, x, w)
    return jax.jit(with_gradients(function))(x, w)


def divided_by_hand(function, x, w):
    mesh, x, w = on_mesh(AxisType.Auto, x, w)
    batch, whole = PartitionSpec("batch"), PartitionSpec()
    mapped = jax.shard_map(
        with_gradients(function), mesh=mesh, in_specs=(batch, whole), out_specs=(batch, batch, whole)
    )
    return jax.jit(mapped)(x, w)


def recomputed(function, x, w):
    return jax.jit(with_gradients(jax.checkpoint(function)))(x, w)


def with_an_own_gradient(function, x, w):
    own = jax.custom_vjp(function)
    own.defvjp(functools.partial(jax.vjp, function), lambda vjp, cotangent: vjp(cotangent))
    return jax.jit(with_gradients(own))(x, w)


def with_an_own_tangent(function, x, w):
    own = jax.custom_jvp(function)
    own.defjvp(functools.partial(jax.jvp, function))
    return jax.jit(with_gradients(own))(x, w)


def linearized(function, x, w):
    """Return the same, gradients as transposes of a linearisation."""
    y, tangent = jax.linearize(function, x, w)
    return y, *jax.linear_transpose(tangent, x, w)(jnp.cos(y))


def exported(function, x, w):
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    return jax.export.export(jax.jit(with_gradients(function)))(shape, w).call(x, w)


def checked(function, x, w):
    error, result = jax.jit(checkify.checkify(with_gradients(function), errors=checkify.all_checks))(x, w)
    error.throw()
    return result


def looking_for_nans(function, x, w):
    with jax.debug_nans(True):
        return with_gradients(function)(x, w)


def branching_in_a_loop(function, x, w):
    def compute(x):
        return with_gradients(function)(x, w)

    def body(x, _):
        return x, lax.cond(x.sum() > jnp.inf, lambda x: compute(-x), compute, x)

    results = jax.jit(lambda x: lax.scan(body, x, length=2)[1])(x)
    return jax.tree.map(lambda leaf: leaf[1], results)


def an_ensemble(function, x, w):
    axis = w.ndim - 1
    results = jax.jit(jax.vmap(with_gradients(function), (None, axis), 1))(x, jnp.stack([w - 1, w], axis))
    return jax.tree.map(lambda leaf: leaf[:, 1], results)


def on_mapped_devices(function, x, w):
    results = jax.pmap(with_gradients(function), in_axes=(None, 0))(x, jnp.stack([w - 1, w]))
    return jax.tree.map(lambda leaf: leaf[1], results)


TRANSFORMATIONS = [
    without_jit,
    divided_explicitly,
    divided_explicitly_eagerly,
    divided_automatically,
    divided_by_hand,
    recomputed,
    with_an_own_gradient,
    with_an_own_tangent,
    linearized,
    exported,
    checked,
    looking_for_nans,
    branching_in_a_loop,
    an_ensemble,
    on_mapped_devices,
]
# One operation for each way that rules are written in; continuous integration runs them all.
PLAIN = [
    ("dense", without_jit),
    ("dense", divided_explicitly),
    ("dense", an_ensemble),
    ("dense", exported),
    ("depthwise", divided_explicitly),
    ("max", without_jit),
    ("max", divided_explicitly),
]
TABLE = [
    pytest.param(
        name,
        transformation,
        id=f"{name}-{transformation.__name__}",
        marks=[] if (name, transformation) in PLAIN else [pytest.mark.exhaustive],
    )
    for transformation in TRANSFORMATIONS
    for name in OPERATIONS
]


@pytest.mark.parametrize(("name", "transformation"), TABLE)
def test_transformed_operations_give_what_lax_gives_untransformed(name, transformation):
    x, w = (jnp.asarray(array, jnp.float32) for array in arrays(name))
    results = transformation(OPERATIONS[name][1], x, w)
    for ours, theirs in zip(results, expected(name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["depthwise", "average"])
def test_float64_is_computed_in_float64(name):
    with jax.enable_x64(True):
        results = jax.jit(with_gradients(OPERATIONS[name][1]))(*map(jnp.asarray, arrays(name)))
    for ours, theirs in zip(results, expected(name), strict=True):
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["dense", "max"])
@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_a_search_for_nans_ends_at_the_operation(name, wrap):
    x, w = (jnp.asarray(array, jnp.float32) for array in arrays(name))
    x = x.at[0, 0, 0, 0].set(jnp.nan)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"nan.* in (conv_general|window_max)"):
        wrap(OPERATIONS[name][1])(x, w)


def test_results_keep_the_division_that_explicit_axes_give_them():
    x, w = (jnp.asarray(array, jnp.float32) for array in arrays("dense"))
    mesh, x, w = on_mesh(AxisType.Explicit, x, w)
    for name in ("dense", "max"):
        with jax.set_mesh(mesh):
            y, x_gradient, w_gradient = jax.eval_shape(with_gradients(OPERATIONS[name][1]), x, w)
        assert y.sharding.spec[0] == x_gradient.sharding.spec[0] == "batch"
        assert w_gradient.sharding.is_fully_replicated


def test_a_file_of_any_image_size_is_exported():
    height, width = jax.export.symbolic_shape("height, width", constraints=["height >= 3", "width >= 3"])
    x = jnp.asarray(arrays("dense")[0], jnp.float32)
    for name in ("dense", "max"):
        ours = jax.jit(OPERATIONS[name][1])
        kernel = jnp.asarray(arrays(name)[1], jnp.float32)
        symbolic = jax.export.export(ours)(jax.ShapeDtypeStruct((4, height, width, 4), x.dtype), kernel)
        np.testing.assert_allclose(symbolic.call(x, kernel), expected(name)[0], rtol=1e-5, atol=1e-5)
