"""What a pattern means, and that what is frozen does not change a bit, whatever the optimizer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

import cnnjax
from cnnjax import finetune
from cnnjax.finetune.paths import is_match

FROZEN = ["stem", "stage[1-3]/*"]


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def drawn(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), params)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("stem", "stem/conv1/kernel", True),
        ("stem", "stem2/conv1/kernel", False),
        ("stage1", "stage10/conv1/kernel", False),
        ("stage*", "stage10/conv1/kernel", True),
        ("stage*/conv1", "stage1/block1/conv1/kernel", False),
        ("stage**/conv1", "stage1/block1/conv1/kernel", True),
        ("stage1/**/conv1", "stage1/conv1/kernel", True),
        ("stage1/**/conv1", "stage1/block2/conv1/kernel", True),
        ("**/norm*", "norm1/scale", True),
        ("**/norm*", "stage1/block1/norm2/scale", True),
        ("**/norm*", "stage1/abnorm/scale", False),
        ("*/norm1", "stage1/block1/norm1/scale", False),
        ("head/*", "head/classifier/kernel", True),
        ("head/*", "head", False),
        ("**", "anything/at/all", True),
        ("*", "head/classifier/kernel", True),
        ("**/bias", "head/classifier/bias", True),
        ("**/bias", "head/bias_free/kernel", False),
        ("stage[!1-3]", "stage4/kernel", True),
        ("stage[!1-3]", "stage2/kernel", False),
        ("stage?", "stage4/kernel", True),
        ("stage?", "stage/4/kernel", False),
        ("a[*]", "a*/kernel", True),
        ("a[*]", "ab/kernel", False),
        ("a[]]", "a]/kernel", True),
        ("a.b", "axb/kernel", False),
        ("Stem", "stem/kernel", False),
        ("resnet/~/conv", "resnet/~/conv/w", True),
    ],
)
def test_what_a_pattern_means(pattern, path, expected):
    assert is_match(path, pattern) is expected


@pytest.mark.parametrize("pattern", ["", "/stem", "stem/", "stage[1", "stage[]", "a[3-1]"])
def test_patterns_that_cannot_be_read(pattern):
    with pytest.raises(ValueError, match="pattern"):
        is_match("stem/kernel", pattern)


def test_masks_of_patterns_functions_and_trees(plain):
    params = plain[1]["params"]
    mask = finetune.trainable_mask(params, FROZEN)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert jax.tree.leaves(mask["head"]) == [True, True]
    assert not any(jax.tree.leaves([mask["stem"], mask["stage1"], mask["stage2"], mask["stage3"]]))
    opposite = finetune.frozen_mask(params, FROZEN)
    assert jax.tree.map(lambda a, b: a != b, mask, opposite) == jax.tree.map(lambda leaf: True, params)
    assert finetune.frozen_mask(params, opposite) == opposite
    assert finetune.frozen_mask(params, lambda path, leaf: not path.startswith("head")) == opposite
    assert finetune.frozen_mask(params, "stem") == finetune.frozen_mask(params, ["stem"])
    assert not any(jax.tree.leaves(finetune.frozen_mask(params, [])))
    # Any mapping and any pytree will do.
    assert finetune.trainable_mask(FrozenDict(params), FROZEN) == FrozenDict(mask)
    assert finetune.frozen_mask([{"w": 0.0}, (1.0, 2.0)], ["0", "1/0"]) == [{"w": True}, (True, False)]


def test_bad_selections(plain):
    params = plain[1]["params"]
    with pytest.raises(ValueError, match="pattern 'stage4' matches no parameter; near paths are stage[123], "):
        finetune.freeze(optax.sgd(1.0), params, ["stem", "stage4"])
    with pytest.raises(ValueError, match="'xyzzy' matches no parameter; near paths are head, stage1, .*stem"):
        finetune.freeze(optax.sgd(1.0), params, "xyzzy")
    for everything in ("**", ["stem", "stage*", "head"], lambda path, leaf: True):
        with pytest.raises(ValueError, match="freezes all 14 parameters; leave out what is to train"):
            finetune.freeze(optax.sgd(1.0), params, everything)
    with pytest.raises(ValueError, match="the function returns True for none of the 14 leaves"):
        finetune.trainable_mask(params, lambda path, leaf: False)
    with pytest.raises(ValueError, match=r"one bool for each leaf .* 14 differ|one bool for each leaf .* such as"):
        finetune.trainable_mask(params, {"stem": True})
    with pytest.raises(ValueError, match="other parameters, without 'other'"):
        finetune.freeze(optax.sgd(1.0), params, FROZEN).init({"other": jnp.ones(1)})


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1, 0.9, nesterov=True),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.1),
    "masked decay": lambda: optax.adamw(0.1, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "decay first": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    "lamb": lambda: optax.lamb(0.1, weight_decay=0.1),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "accumulated": lambda: optax.MultiSteps(optax.adamw(0.1), 2).gradient_transformation(),
    "lookahead-free rms": lambda: optax.rmsprop(0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_frozen_stay_and_the_others_train_as_if_they_were_alone(name, plain, compile_quickly):
    params = plain[1]["params"]
    tx = finetune.freeze(OPTIMIZERS[name](), params, FROZEN)
    alone = OPTIMIZERS[name]()
    head = {"head": params["head"]}

    def run(transform, params, gradients):
        state = transform.init(params)
        for grads in gradients:
            updates, state = transform.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    gradients = [drawn(params, seed) for seed in range(3)]
    heads = [{"head": grads["head"]} for grads in gradients]
    # optax.MultiSteps mixes its counter with floats and ranks; the other optimizers stay strict.
    promotion = "standard" if name == "accumulated" else "strict"
    with jax.numpy_dtype_promotion(promotion), jax.numpy_rank_promotion("allow"):
        trained, state = compile_quickly(lambda p, g: run(tx, p, g), params, gradients)(params, gradients)
        expected, alone_state = compile_quickly(lambda p, g: run(alone, p, g), head, heads)(head, heads)
    for part in ("stem", "stage1", "stage2", "stage3"):
        assert bits(trained[part]) == bits(params[part])
    assert sizes(state) == sizes(alone_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), trained["head"], expected["head"])
    assert bits(trained["head"]) != bits(params["head"])


def test_norms_see_the_trainable_leaves_only(plain):
    grads = plain[1]["params"]
    part = finetune.trainable_part(grads, FROZEN)
    np.testing.assert_allclose(optax.tree.norm(part), optax.tree.norm(grads["head"]), rtol=1e-6)
    # Gradients from which the frozen were left out are taken too.
    tx = finetune.freeze(optax.sgd(1.0), grads, FROZEN)
    updates, _ = tx.update(part, tx.init(grads), grads)
    assert jax.tree.structure(updates) == jax.tree.structure(part)


def test_description_counts(plain):
    params = plain[1]["params"]
    table = finetune.describe(params, finetune.trainable_mask(params, ["stem", "stage*"]))
    assert (table.trainable, table.frozen, table.trainable + table.frozen) == (25, sizes(params) - 25, sizes(params))
    assert [row[0] for row in table.rows] == ["stem", "stage1", "stage2", "stage3", "head"]
    assert str(table) == str(finetune.describe(params, frozen=["stem", "stage*"]))
    assert str(table).splitlines()[-1].split() == ["total", "25", str(sizes(params) - 25)]
    assert finetune.describe(params).frozen == 0
    shapes = jax.eval_shape(lambda: params)
    assert finetune.describe(shapes, frozen="**/kernel", depth=2).trainable == 4 * 8 + 5
    with pytest.raises(ValueError, match="not both"):
        finetune.describe(params, finetune.trainable_mask(params, "stem"), frozen="stem")


@pytest.mark.slow
def test_learning_rates_of_parts(plain):
    params = plain[1]["params"]
    base = optax.adamw(0.1, weight_decay=0.1)
    plain_updates, _ = base.update(params, base.init(params), params)
    tx = finetune.scale_learning_rate(base, params, {"stage*": 0.5, "stage3/*": 0.1, "head": 10.0})
    # Either may be around the other.
    both = finetune.freeze(tx, params, ["stem"])
    other = finetune.scale_learning_rate(finetune.freeze(base, params, ["stem"]), params, {"head": 10.0})
    updates, _ = tx.update(params, tx.init(params), params)
    frozen_updates, _ = both.update(params, both.init(params), params)
    other_updates, _ = other.update(params, other.init(params), params)
    for part, factor in {"stem": 1, "stage1": 0.5, "stage2": 0.5, "stage3": 0.1, "head": 10}.items():
        for got in (updates, frozen_updates) if part != "stem" else (updates,):
            jax.tree.map(
                lambda a, b, factor=factor: np.testing.assert_allclose(a, factor * b, rtol=1e-6),
                got[part],
                plain_updates[part],
            )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves([frozen_updates["stem"], other_updates["stem"]]))
    np.testing.assert_allclose(other_updates["head"]["bias"], 10 * plain_updates["head"]["bias"], rtol=1e-6)
    with pytest.raises(ValueError, match="pattern 'tail' matches no parameter"):
        finetune.scale_learning_rate(base, params, {"tail": 1.0})
    for factor in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"'head' must be above 0 and finite, got {factor}; .* use freeze"):
            finetune.scale_learning_rate(base, params, {"head": factor})


def updates_by_part(tx, params):
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    return {part: float(jax.tree.leaves(leaves)[0].reshape(-1)[0]) for part, leaves in updates.items()}


def test_learning_rates_fall_by_depth(plain):
    params = plain[1]["params"]
    got = updates_by_part(finetune.layerwise_decay(optax.sgd(1.0), params, 0.5), params)
    assert got == {"head": -1, "stage3": -0.5, "stage2": -0.25, "stage1": -0.125, "stem": -0.0625}
    ordered = finetune.layerwise_decay(optax.sgd(1.0), params, 0.5, order=["stem", "stage*", "**"])
    assert updates_by_part(ordered, params) == {
        "head": -1,
        "stage3": -0.5,
        "stage2": -0.5,
        "stage1": -0.5,
        "stem": -0.25,
    }
    # Numbers sort as numbers, blocks are layers, auxiliary heads belong to the head.
    net = {
        "stem": 0,
        "stage2": {"block10": 0, "block9": 0, "norm1": 0},
        "stage10": 0,
        "head": {"x": 0},
        "aux1": {"y": 0},
    }
    from cnnjax.finetune.rates import layer_depths

    nested = {
        "stem/w": 0,
        "stage2/norm1/w": 1,
        "stage2/block9/w": 2,
        "stage2/block10/w": 3,
        "stage10/w": 4,
        "head/x/w": 5,
        "aux1/y/w": 5,
    }
    assert layer_depths(jax.tree.map(lambda leaf: {"w": leaf}, net)) == nested
    with pytest.raises(ValueError, match="name 'Dense_0' does not tell .* give order="):
        finetune.layerwise_decay(optax.sgd(1.0), {"Dense_0": jnp.ones(1)}, 0.5)
    with pytest.raises(ValueError, match="order must match every parameter, and leaves out 'head/"):
        finetune.layerwise_decay(optax.sgd(1.0), params, 0.5, order=["stem", "stage*"])
    for decay in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"decay must be above 0 and at most 1, got {decay}"):
            finetune.layerwise_decay(optax.sgd(1.0), params, decay)


@pytest.mark.slow
def test_every_network_of_ours_has_an_order_of_depth():
    from cnnjax.finetune.rates import layer_depths

    for name in ("resnet18", "inception_v3", "unet", "deeplabv3_resnet50", "lenet5", "squeezenet1_1"):
        info = cnnjax.model_info(name)
        model = cnnjax.create_model(name, num_classes=info.num_classes)
        images = jax.ShapeDtypeStruct((1, *info.input_size, info.channels), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        depths = layer_depths(params)
        assert depths["head/classifier/kernel"] == max(depths.values())
        assert next(iter(depths)).startswith("aux") or min(depths.values()) == 0


@pytest.mark.slow
def test_the_state_of_an_nnx_model():
    """A Linen network through the bridge, and a native one."""

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(jnp.tanh(nn.Dense(3, name="stem")(x)))

    class Native(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Linear(4, 3, rngs=rngs)
            self.head = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(jnp.tanh(self.stem(x)))

    images = jnp.ones((2, 4))
    for model in (nnx.bridge.ToNNX(Linen(), rngs=nnx.Rngs(0)).lazy_init(images), Native(nnx.Rngs(0))):
        params = nnx.state(model, nnx.Param)
        before = jax.tree.map(jnp.copy, params)
        assert jax.tree.leaves(finetune.trainable_mask(params, ["stem"])) == [True, True, False, False]
        tx = finetune.freeze(optax.adamw(0.1, weight_decay=0.1), params, ["stem"])
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        optimizer.update(model, nnx.grad(lambda m: (m(images) ** 2).sum())(model))
        after = nnx.state(model, nnx.Param)
        assert bits(after["stem"]) == bits(before["stem"])
        assert bits(after["head"]) != bits(before["head"])
