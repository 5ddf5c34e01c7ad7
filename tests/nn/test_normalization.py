import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import BatchNorm, local_response_norm


def data(shape=(4, 3, 3, 5)):
    return 3 * jax.random.normal(jax.random.key(0), shape) + 1


@pytest.mark.parametrize("use_fast_variance", [True, False])
def test_batch_norm_normalises_and_keeps_the_unbiased_variance(use_fast_variance):
    x = data()
    layer = BatchNorm(use_running_average=False, use_fast_variance=use_fast_variance)
    variables = layer.init(jax.random.key(1), x)
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    values = np.asarray(x).reshape(-1, 5)
    np.testing.assert_allclose(
        np.asarray(y).reshape(-1, 5), (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_with_flax_rule_equals_flax(train):
    x = data()
    ours = BatchNorm(use_running_average=not train, unbiased_running_var=False, momentum=0.7)
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.7)
    variables = theirs.init(jax.random.key(1), x)
    assert jax.tree.structure(variables) == jax.tree.structure(ours.init(jax.random.key(1), x))
    got, expected = (layer.apply(variables, x, mutable=["batch_stats"]) for layer in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_the_backward_pass_keeps_nothing_but_the_images():
    x = data()
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(1), x)
    _, backward = jax.vjp(lambda x: layer.apply(variables, x, mutable=["batch_stats"])[0], x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if jnp.size(leaf) == x.size]
    assert kept
    for array in kept:
        np.testing.assert_array_equal(jnp.broadcast_to(array, x.shape), x)


def test_running_statistics_hand_no_gradient_back():
    x = data()
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(1), x)

    def moved(x):
        return layer.apply(variables, x, mutable=["batch_stats"])[1]["batch_stats"]["mean"].sum()

    np.testing.assert_array_equal(jax.grad(moved)(x), jnp.zeros_like(x))
    assert moved(x) != moved(x + 1)


def test_training_steps_are_exported_for_any_number_of_images():
    layer = BatchNorm(use_running_average=False)
    x = data()
    variables = layer.init(jax.random.key(1), x)
    apply = jax.jit(lambda x: layer.apply(variables, x, mutable=["batch_stats"]))
    shape = jax.export.symbolic_shape(", ".join(map(str, ("batch", *x.shape[1:]))))
    exported = jax.export.export(apply)(jax.ShapeDtypeStruct(shape, x.dtype))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), exported.call(x), apply(x))


def test_masked_positions_count_in_no_statistic():
    x = data()
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(1), x)
    padded = jnp.concatenate([x, jnp.full_like(x, 1e3)])
    mask = (jnp.arange(8) < 4).reshape(8, 1, 1, 1)
    y, updates = layer.apply(variables, padded, mask=mask, mutable=["batch_stats"])
    expected, expected_updates = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y[:4], expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected_updates)


def test_synchronised_batch_norm_over_devices_equals_one_device():
    x = data((8, 2, 2, 5))
    alone = BatchNorm(use_running_average=False)
    variables = alone.init(jax.random.key(1), x)
    expected = alone.apply(variables, x, mutable=["batch_stats"])
    together = BatchNorm(use_running_average=False, axis_name="devices")
    y, updates = jax.pmap(lambda part: together.apply(variables, part, mutable=["batch_stats"]), axis_name="devices")(
        x.reshape(8, 1, 2, 2, 5)
    )
    np.testing.assert_allclose(y.reshape(x.shape), expected[0], rtol=1e-4, atol=1e-5)
    for path in ("mean", "var"):
        np.testing.assert_allclose(
            updates["batch_stats"][path], np.tile(expected[1]["batch_stats"][path], (8, 1)), rtol=1e-5
        )


def test_statistics_are_float32_under_bfloat16_compute():
    x = data().astype(jnp.bfloat16)
    layer = BatchNorm(use_running_average=False, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(1), x)
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype(jnp.float32)}


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="axis=-1"):
        BatchNorm(use_running_average=True, axis=1).init(jax.random.key(0), data())


def test_local_response_norm_is_the_equation_of_the_paper():
    x = data((2, 2, 2, 7))
    got = local_response_norm(x, 5, alpha=0.1, beta=0.75, k=2.0)
    values = np.asarray(x, np.float64)
    for i in range(7):
        energy = (values[..., max(0, i - 2) : i + 3] ** 2).sum(-1)
        np.testing.assert_allclose(got[..., i], values[..., i] / (2 + 0.1 * energy) ** 0.75, rtol=1e-5)
    with pytest.raises(ValueError, match="odd and positive.*4"):
        local_response_norm(x, 4, alpha=1.0, beta=1.0, k=1.0)
