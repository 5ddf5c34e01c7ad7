"""Batch normalisations folded into the layers before them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.models.folding import fold_batch_norm
from cnnjax.nn import BatchNorm, Conv


def drawn(model, images, random):
    """Return variables whose normalisations do something."""

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            values = random.uniform(0.5, 1.5, leaf.shape)
        elif name in ("mean", "bias"):
            values = random.normal(0, 0.1, leaf.shape)
        else:
            values = random.normal(0, np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1)), leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), images))


def largest_difference(ours, theirs):
    return float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())


# All norms; a depthwise one among them; only the second norm of each pre-activated layer; convolutions with bias.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "norms", "left"),
    [
        ("resnet20", {"remat": True}, 19, 0),
        ("mobilenet_v1_025", {}, 27, 0),
        pytest.param("mobilenet_v2", {}, 52, 0, marks=pytest.mark.exhaustive),
        pytest.param("densenet121", {}, 59, 62, marks=pytest.mark.exhaustive),
        pytest.param("vgg11_bn", {}, 8, 0, marks=pytest.mark.exhaustive),
    ],
)
def test_folded_network_gives_the_same_logits(name, fields, norms, left, compile_quickly):
    model, info = cnnjax.create_model(name, **fields), cnnjax.model_info(name)
    random = np.random.default_rng(0)
    size = 96 if name == "densenet121" else info.input_size[0]
    images = jnp.asarray(random.normal(size=(1, size, size, 3)), jnp.float32)
    variables = drawn(model, images, random)
    folded, fewer = cnnjax.fold_batch_norm(model, variables)
    assert len(folded.norms) == norms
    assert len(jax.tree.leaves(fewer.get("batch_stats", {}))) == 2 * left
    expected = compile_quickly(model.apply, variables, images)(variables, images)
    assert largest_difference(compile_quickly(folded.apply, fewer, images)(fewer, images), expected) < 1e-5


class Net(nn.Module):
    """Norms that cannot be folded, beside one that can."""

    @nn.compact
    def __call__(self, x, inference=False):
        def norm(name):
            return nn.BatchNorm(use_running_average=inference, name=name)

        y = Conv(4, (3, 3), name="used_twice")(x)
        y = y + norm("after_used_twice")(y)
        shared = Conv(4, (1, 1), name="shared")
        y = norm("after_shared1")(shared(y)) + norm("after_shared2")(shared(y + 1))
        y = norm("after_relu")(nn.relu(Conv(4, (1, 1), name="with_relu")(y)))
        y = nn.BatchNorm(use_running_average=inference, axis=1, name="over_rows")(Conv(4, (1, 1), name="rows")(y))
        y = norm("after_dense")(nn.Dense(5, name="dense")(y))
        return BatchNorm(use_running_average=inference, use_bias=False, name="after_transposed")(
            nn.ConvTranspose(6, (2, 2), (2, 2), name="transposed")(y)
        )


def test_only_what_has_one_taker_is_folded_in_any_network(compile_quickly):
    model, random = Net(), np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = drawn(model, images, random)
    folded, fewer = fold_batch_norm(model, variables, images, inference=True)
    assert folded.norms == {"after_dense", "after_transposed"}
    assert sorted(fewer["params"]["after_transposed"]) == ["bias"]
    expected = model.apply(variables, images, inference=True)
    assert largest_difference(folded.apply(fewer, images, inference=True), expected) < 1e-5


def test_refusals(compile_quickly):
    model, random = cnnjax.create_model("resnet20"), np.random.default_rng(0)
    images = jnp.zeros((1, 32, 32, 3))
    folded, fewer = fold_batch_norm(model, drawn(model, images, random))
    with pytest.raises(ValueError, match="stem/norm1 is folded and cannot train"):
        jax.eval_shape(lambda: folded.apply(fewer, images, train=True, mutable=["batch_stats"]))
    with pytest.raises(ValueError, match="give images="):
        fold_batch_norm(Net(), {"params": {}})
    lenet = cnnjax.create_model("lenet5", num_classes=10)
    variables = jax.eval_shape(lenet.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))
    with pytest.raises(ValueError, match="no batch normalisation to fold"):
        fold_batch_norm(lenet, variables)
