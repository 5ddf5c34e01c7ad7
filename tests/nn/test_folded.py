"""A folded convolution and batch norm against the two layers it stands for."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.nn import (
    BatchNorm,
    Conv,
    FoldedBatchNorm,
    LayerNorm,
    PointwiseKernel,
    PoolingBatchNorm,
    max_pool,
)
from cnnjax.nn.building import pointwise_conv_norm


class Both(nn.Module):
    """A 1x1 convolution and its normalisation, as two layers or folded."""

    folded: bool
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, use_running_average, mask=None):
        norm = partial(BatchNorm, use_running_average=use_running_average, axis_name=self.axis_name, dtype=self.dtype)
        if self.folded:
            kernel = PointwiseKernel(8, name="conv")(x)
            norm = FoldedBatchNorm(**norm.keywords, name="norm")
            return norm(x, kernel=kernel, mask=mask)
        return norm(name="norm")(Conv(8, (1, 1), use_bias=False, dtype=self.dtype, name="conv")(x), mask=mask)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 1, shape), jnp.float32)


@pytest.fixture
def variables():
    return {
        "params": {
            "conv": {"kernel": drawn(1, 1, 3, 8, seed=1)},
            "norm": {"scale": drawn(8, seed=2), "bias": drawn(8, seed=3)},
        },
        "batch_stats": {"norm": {"mean": drawn(8, seed=4), "var": 1 + drawn(8, seed=5) ** 2}},
    }


def run(model, variables, x, use_running_average=False, mask=None):
    """Return output, new statistics and the gradients of a function of the output."""

    def function(params, x):
        y, updates = model.apply({**variables, "params": params}, x, use_running_average, mask, mutable=["batch_stats"])
        y = y if mask is None else y * mask.astype(y.dtype)
        return (jnp.sin(y.astype(jnp.float32)) * jnp.arange(8.0).reshape(1, 1, 1, 8)).sum(), (y, updates)

    grads, (y, updates) = jax.grad(function, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return y, updates, grads


def assert_close(a, b, tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("use_running_average", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_statistics_and_gradients_are_those_of_two_layers(variables, use_running_average, masked):
    x = drawn(6, 4, 4, 3)
    mask = (jnp.arange(6) < 4).reshape(6, 1, 1, 1) if masked else None
    expected = run(Both(False), variables, x, use_running_average, mask)
    assert_close(run(Both(True), variables, x, use_running_average, mask), expected, 2e-4)


def test_variables_are_those_of_two_layers():
    x = drawn(2, 4, 4, 3)
    trees = [
        jax.eval_shape(lambda key, folded=folded: Both(folded).init(key, x, False), jax.random.key(0))
        for folded in (False, True)
    ]
    assert trees[0] == trees[1]


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_two_layers_are(variables):
    x = drawn(16, 8, 8, 3).astype(jnp.bfloat16)
    exact = run(Both(False), variables, x.astype(jnp.float32))

    def distance(folded):
        y, _, (params, dx) = run(Both(folded, dtype=jnp.bfloat16), variables, x)
        assert y.dtype == dx.dtype == jnp.bfloat16
        pairs = zip(jax.tree.leaves((exact[0], exact[2])), jax.tree.leaves((y, (params, dx))), strict=True)
        return max(float(jnp.abs(a - b.astype(jnp.float32)).max() / jnp.abs(a).max()) for a, b in pairs)

    assert distance(True) < max(2 * distance(False), 0.02)


@pytest.mark.slow
def test_statistics_are_shared_over_an_axis(variables):
    x = drawn(8, 2, 2, 3)
    expected, updates = Both(False).apply(variables, x, False, mutable=["batch_stats"])
    shared = jax.vmap(
        lambda part: Both(True, axis_name="parts").apply(variables, part, False, mutable=["batch_stats"]),
        axis_name="parts",
    )
    y, new = shared(x.reshape(4, 2, 2, 2, 3))
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=1e-4)
    assert_close(jax.tree.map(lambda leaf: leaf[0], new), updates, 1e-5)


@pytest.mark.parametrize("use_running_average", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_pooling_first_changes_nothing(variables, use_running_average, masked):
    class Pooled(nn.Module):
        first: bool

        @nn.compact
        def __call__(self, x, use_running_average, mask=None):
            if self.first:
                norm = PoolingBatchNorm(window=3, strides=2, padding=1, name="norm")
                return norm(x, use_running_average, mask=mask)
            return max_pool(BatchNorm(name="norm")(x, use_running_average, mask=mask), 3, 2, padding=1)

    assert (variables["params"]["norm"]["scale"] < 0).any()
    variables = jax.tree.map(lambda leaf: leaf, variables)
    del variables["params"]["conv"]
    x = drawn(6, 5, 5, 8)
    mask = (jnp.arange(6) < 4).reshape(6, 1, 1, 1) if masked else None
    expected = run(Pooled(False), variables, x, use_running_average, mask)
    assert_close(run(Pooled(True), variables, x, use_running_average, mask), expected, 1e-4)


@pytest.mark.slow
def test_networks_with_and_without_folding_are_one(compile_quickly):
    fields = {"stage_sizes": (1, 1), "features": 4, "num_classes": 3, "output_stride": 8}
    plain = cnnjax.create_model("resnet50", **fields)
    folded = cnnjax.create_model("resnet50", fold_norms=True, **fields)
    images = drawn(4, 16, 16, 3)
    variables = compile_quickly(plain.init, jax.random.key(0), images)(jax.random.key(0), images)
    assert jax.eval_shape(folded.init, jax.random.key(0), images) == jax.eval_shape(lambda: variables)

    def step(model, params):
        def loss(params):
            logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return jax.nn.logsumexp(logits, axis=-1).sum(), (logits, updates)

        return jax.grad(loss, has_aux=True)(params)

    expected, got = (
        compile_quickly(partial(step, model), variables["params"])(variables["params"]) for model in (plain, folded)
    )
    assert_close(got, expected, 1e-3)


def test_folded_variables_keep_their_type():
    fields = {"stage_sizes": (1, 1), "features": 4, "output_stride": 8, "param_dtype": jnp.bfloat16}
    models = [cnnjax.create_model("resnet50", fold_norms=fold, **fields) for fold in (False, True)]
    plain, folded = (jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 3))) for model in models)
    assert folded == plain


@pytest.mark.parametrize(
    ("conv", "norm", "message"),
    [
        (partial(Conv, use_bias=False), LayerNorm, "only BatchNorm can be folded, got LayerNorm"),
        (Conv, BatchNorm, "only a convolution without bias can be folded"),
    ],
)
def test_other_layers_cannot_be_folded(conv, norm, message):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = {"conv": conv, "norm": norm, "names": ("conv", "norm")}
            return pointwise_conv_norm(x, 4, **layers, use_running_average=False, fold=True)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Layer().init, jax.random.key(0), jnp.ones((1, 2, 2, 3)))


def test_sums_of_float64_are_float64():
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(1000, 1, (2, 3, 3, 4)))
        kernel = jnp.asarray(random.normal(size=(1, 1, 4, 8)))
        norm = FoldedBatchNorm(use_running_average=False, param_dtype=jnp.float64)
        found, _ = norm.init_with_output(jax.random.key(0), x, kernel=kernel)
        y = np.asarray(x) @ np.asarray(kernel)[0, 0]
        expected = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + norm.epsilon)
        assert found.dtype == jnp.float64
        # In float32, means of 1000 would leave three digits of the variance.
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
