import re
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cnnjax
from cnnjax.data.pipeline import EvaluationBatches
from cnnjax.data.source import ArraySplit
from cnnjax.nn.building import sow_aux_logits
from cnnjax.nn.initialization import INITS, redraw_kernels
from cnnjax.training import Devices, TrainState, eval_step, for_platform, make_optimizer, train_step
from cnnjax.training.lookahead import Lookahead
from cnnjax.training.metrics import means, zero_sums


def batch(size=16, channels=1, pixels=28):
    images = jax.random.normal(jax.random.key(0), (size, pixels, pixels, channels))
    return {"image": images, "label": jnp.arange(size, dtype=jnp.int32) % 10}


def lenet_state(tx=None):
    model = cnnjax.create_model("lenet5", num_classes=10)
    return TrainState.create(model, tx or optax.sgd(0.1, 0.9), jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


# Operation by operation, they would take many times as long.
evaluate, take = jax.jit(eval_step), jax.jit(train_step)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_is_what_it_says():
    """One step of plain gradient descent, written out."""
    state = lenet_state(optax.sgd(0.1))
    data = batch()

    def loss(params):
        logits = state.apply_fn({"params": params}, data["image"], train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(16), data["label"]])

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    new, sums = take(state, data)
    assert_close(new.params, expected)
    assert int(new.step) == 1
    np.testing.assert_allclose(means(sums)["loss"], value, rtol=1e-5)
    flat = [np.ravel(leaf) for leaf in jax.tree.leaves(grads)]
    np.testing.assert_allclose(means(sums)["gradient_norm"], np.linalg.norm(np.concatenate(flat)), rtol=1e-5)
    logits = jax.jit(state.apply_fn)(state.variables, data["image"])
    assert means(sums)["accuracy"] * 16 == pytest.approx((logits.argmax(-1) == data["label"]).sum())


@pytest.mark.slow
def test_training_learns():
    state = lenet_state()
    data = batch()
    step = jax.jit(train_step, donate_argnums=0)
    losses = []
    for _ in range(60):
        state, sums = step(state, data)
        losses.append(means(sums)["loss"])
    assert losses[-1] < 0.1 * losses[0]


def test_nothing_is_compiled_after_the_first_step():
    chex.clear_trace_counter()
    step = Devices("jit", 1).compile_train(chex.assert_max_traces(n=1)(train_step))
    state, sums = lenet_state(), zero_sums()
    host = {key: np.asarray(value) for key, value in batch().items()}
    for _ in range(3):
        state, sums = step(state, sums, host)
    assert int(sums["count"]) == 48


def test_the_last_batch_of_an_evaluation_compiles_nothing(make_tiny_state):
    chex.clear_trace_counter()
    evaluate = Devices("jit", 1).compile_eval(chex.assert_max_traces(n=1)(eval_step))
    random = np.random.default_rng(0)
    split = ArraySplit(random.standard_normal((40, 8, 8, 3)).astype(np.float32), np.arange(40, dtype=np.int32) % 10)
    state, counts = make_tiny_state(), []
    for number in range(3):
        counts.append(int(evaluate(state, EvaluationBatches(split, 16)[number])["count"]))
    assert counts == [16, 16, 8]


def test_padding_counts_nowhere(make_tiny_state):
    state, data = make_tiny_state(), batch(16, 3, 8)
    expected, expected_sums = take(state, data)
    padded = {
        "image": jnp.concatenate([data["image"], jnp.full_like(data["image"][:5], 50.0)]),
        "label": jnp.concatenate([data["label"], jnp.zeros(5, jnp.int32)]),
        "mask": jnp.arange(21) < 16,
    }
    new, sums = take(state, padded)
    assert_close(new.params, expected.params, 1e-4)
    assert_close(new.batch_stats, expected.batch_stats, 1e-4)
    assert_close(sums, expected_sums, 1e-4)
    assert_close(evaluate(state, padded), evaluate(state, data), 1e-4)
    # As soft labels, they are learned alike.
    soft = {**data, "label": jax.nn.one_hot(data["label"], 10)}
    assert_close(take(state, soft)[0].params, new.params, 1e-4)


@pytest.mark.slow
def test_eight_devices_take_the_step_of_one():
    state, data = lenet_state(), batch(32)
    expected, expected_sums = take(state, data)
    devices = Devices.choose("auto")
    assert (devices.mode, devices.count) == ("pmap", 8)
    step = devices.compile_train(train_step)
    new, sums = step(devices.replicate(state), devices.replicate(zero_sums()), devices.shard(data))
    for leaf in jax.tree.leaves(new.params):
        assert leaf.shape[0] == 8
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert_close(devices.unreplicate(new).params, expected.params)
    assert_close(devices.unreplicate(new).opt_state, expected.opt_state)
    assert_close(devices.unreplicate(sums), expected_sums)
    evaluated = devices.unreplicate(devices.compile_eval(eval_step)(new, devices.shard(data)))
    assert_close(evaluated, evaluate(expected, data), 1e-4)


@pytest.mark.slow
def test_uneven_masks_over_devices_still_weigh_every_example_equally(make_tiny_state):
    state, data = make_tiny_state(), batch(16, 3, 8)
    mask = jnp.arange(16) < 5
    data["mask"] = mask
    devices = Devices.choose("pmap")
    step = devices.compile_train(train_step)
    new, sums = step(devices.replicate(state), devices.replicate(zero_sums()), devices.shard(data))
    assert int(devices.unreplicate(sums)["count"]) == 5
    for leaf in jax.tree.leaves((new.params, new.batch_stats)):
        assert np.isfinite(leaf).all()
    # Devices without real examples do not pull the running statistics towards anything.
    real = {"image": data["image"][:4], "label": data["label"][:4]}
    pairs = Devices("pmap", 2)
    two = jax.pmap(partial(train_step, axis_name="two"), axis_name="two", devices=jax.local_devices()[:2])
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state)
    expected, _ = two(stacked, pairs.shard(real))
    four = {key: value[:8] for key, value in data.items()} | {"mask": jnp.arange(8) < 4}
    quad = jax.pmap(partial(train_step, axis_name="four"), axis_name="four", devices=jax.local_devices()[:4])
    got, _ = quad(jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), state), Devices("pmap", 4).shard(four))
    assert_close(
        jax.tree.map(lambda leaf: leaf[0], got.batch_stats), jax.tree.map(lambda leaf: leaf[0], expected.batch_stats)
    )


@pytest.mark.slow
def test_eight_devices_augment_as_one_does():
    """Pixels that the step draws and learns from are functions of seed, step and place in the whole batch."""
    seen = {}

    def preprocess(batch, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (28 * 28,)).reshape(28, 28, 1))(keys)
        return {**batch, "image": batch["image"] + noise}

    data = batch(32)
    for count in (1, 8):
        state = lenet_state()
        devices = Devices("jit", 1) if count == 1 else Devices("pmap", 8)
        step = devices.compile_train(partial(train_step, preprocess=preprocess))
        new, sums = step(devices.replicate(state), devices.replicate(zero_sums()), devices.shard(data))
        seen[count] = devices.unreplicate((new.params, sums))
    assert_close(seen[1], seen[8])
    plain, _ = take(lenet_state(), data)
    assert not np.allclose(plain.params["head"]["classifier"]["bias"], seen[1][0]["head"]["classifier"]["bias"])


@pytest.mark.slow
def test_the_same_function_runs_under_shard_map():
    state, data = lenet_state(), batch(32)
    expected, expected_sums = take(state, data)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    step = jax.jit(
        jax.shard_map(
            partial(train_step, axis_name="batch"), mesh=mesh, in_specs=(whole, split), out_specs=(whole, whole)
        )
    )
    new, sums = step(
        jax.device_put(state, NamedSharding(mesh, whole)), jax.device_put(data, NamedSharding(mesh, split))
    )
    assert_close(new.params, expected.params)
    assert_close(sums, expected_sums)


def test_batch_sizes_that_devices_cannot_share_are_refused():
    with pytest.raises(ValueError, match="divisible by the 8 devices, got 12; take 8"):
        Devices.choose("pmap").check_batch_size(12)


def test_only_bfloat16_on_tpus_folds_norms():
    resnet = partial(cnnjax.create_model, "resnet50")
    assert for_platform(resnet(dtype=jnp.bfloat16), "tpu").fold_norms
    assert not for_platform(resnet(dtype=jnp.bfloat16), "gpu").fold_norms
    assert not for_platform(resnet(dtype=jnp.bfloat16, conv_bias=True), "tpu").fold_norms
    assert not for_platform(resnet(), "tpu").fold_norms
    lenet = cnnjax.create_model("lenet5", dtype=jnp.bfloat16)
    assert for_platform(lenet, "tpu") == lenet


def test_the_abstract_state_has_the_shapes_of_the_real_one():
    model = cnnjax.create_model("lenet5", num_classes=10)
    state = lenet_state()
    abstract = TrainState.abstract(model, state.tx, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    assert jax.tree.structure(abstract.params) == jax.tree.structure(state.params)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)
    ]


def test_draws_depend_on_the_step_and_nothing_else():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
            return nn.Dense(10, name="classifier")(x)

    state = TrainState.create(Dropping(), optax.sgd(0.1), jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    first, _ = take(state, batch())
    again, _ = take(state, batch())
    assert_equal(first.params, again.params)
    other, _ = take(state.replace(step=state.step + 1), batch())
    assert (first.params["classifier"]["kernel"] != other.params["classifier"]["kernel"]).any()
    assert_equal(jax.random.key_data(first.rng), jax.random.key_data(state.rng))


def test_moving_averages_follow_and_are_what_is_evaluated(make_tiny_state):
    state = make_tiny_state(ema=True)
    data = batch(16, 3, 8)
    new, _ = jax.jit(partial(train_step, ema_decay=0.9))(state, data)
    old = {"params": state.params, "batch_stats": state.batch_stats}
    fresh = {"params": new.params, "batch_stats": new.batch_stats}
    assert_close(new.ema, jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, fresh))
    assert_close(
        evaluate(new, data),
        evaluate(new.replace(params=new.ema["params"], batch_stats=new.ema["batch_stats"], ema=None), data),
    )


def test_slow_weights_and_statistics_meet_the_fast_ones_every_few_steps(make_tiny_state, compile_quickly):
    """Before, they stay; then the slow ones move by their share, and the fast ones start from there."""
    lookahead = Lookahead(steps=2, decay=0.8, power=3, total=4)
    state, data = make_tiny_state(ema=True), batch(16, 3, 8)
    step = compile_quickly(partial(train_step, lookahead=lookahead), state, data)
    plain = compile_quickly(train_step, state.replace(ema=None), data)
    first, _ = step(state, data)
    assert_equal(first.ema, {"params": state.params, "batch_stats": state.batch_stats})
    second, _ = step(first, data)
    alone, _ = plain(first.replace(ema=None), data)
    share = 0.8 * 0.5**3
    for name in ("params", "batch_stats"):
        fast = getattr(alone, name)
        assert_close(second.ema[name], jax.tree.map(lambda a, b: share * a + (1 - share) * b, first.ema[name], fast))
        assert_equal(getattr(second, name), second.ema[name])
    with pytest.raises(ValueError, match="slow weights as the state's moving averages"):
        jax.eval_shape(partial(train_step, lookahead=lookahead), state.replace(ema=None), data)


def test_a_summed_loss_has_as_many_times_the_gradient(compile_quickly):
    """Examples without a label do not count, and what is reported is the mean."""
    state, data = dense_state(), small_batch()
    data["label"] = data["label"].at[:4].set(-1)

    def steps(state, data):
        return [train_step(state, data, loss_reduction=reduction) for reduction in ("mean", "sum")]

    (mean, mean_sums), (total, total_sums) = compile_quickly(steps, state, data)(state, data)
    assert_close(total_sums["gradient_norm_sum"], 12 * mean_sums["gradient_norm_sum"])
    assert_equal(total_sums["loss_sum"], mean_sums["loss_sum"])
    moved = [jax.tree.map(jnp.subtract, new.params, state.params) for new in (mean, total)]
    assert_close(moved[1], jax.tree.map(lambda leaf: 12 * leaf, moved[0]))
    with pytest.raises(ValueError, match="loss_reduction must be mean or sum, got 'max'"):
        train_step(state, data, loss_reduction="max")


class TwoHeads(nn.Module):
    """A dense network without normalisation, with a head that is sown."""

    sown: bool = True

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Dense(8, name="stem")(images.reshape(images.shape[0], -1)))
        if self.sown and train:
            sow_aux_logits(self, "aux1", nn.Dense(10, name="aux1")(x))
        elif self.sown:
            nn.Dense(10, name="aux1")(x)
        return nn.Dense(10, name="head")(x)


def dense_state(sown=False):
    return TrainState.create(TwoHeads(sown), optax.sgd(0.1, 0.9), jax.random.key(0), jnp.zeros((1, 4, 4, 1)))


def small_batch(size=16):
    images = np.random.default_rng(0).standard_normal((size, 4, 4, 1)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.arange(size, dtype=jnp.int32) % 10}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_steps_are_those_of_the_whole_batch(compile_quickly, parts):
    """Also with examples that do not count, spread unevenly over the parts."""
    state = dense_state()
    data = small_batch() | {"mask": jnp.arange(16) < 7}
    expected, expected_sums = compile_quickly(train_step, state, data)(state, data)
    step = compile_quickly(partial(train_step, accumulate=parts), state, data)
    new, sums = step(state, data)
    assert_close(new.params, expected.params, 1e-6)
    assert_close(sums, expected_sums, 1e-6)
    assert int(sums["steps"]) == 1


@pytest.mark.exhaustive
def test_parts_normalise_as_devices_do(make_tiny_state, compile_quickly):
    """Two parts on each of four devices are as many parts on one."""
    data = {"image": jnp.asarray(np.random.default_rng(0).standard_normal((16, 8, 8, 3)), jnp.float32)}
    data["label"] = jnp.arange(16, dtype=jnp.int32) % 10
    state = make_tiny_state()
    # Part i of one device has examples i, i + 8, ...; device d of eight has examples 2 d and 2 d + 1.
    order = jnp.arange(16).reshape(8, 2).T.ravel()
    divided, sums = jax.pmap(partial(train_step, axis_name="eight"), axis_name="eight")(
        jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), state), Devices("pmap", 8).shard(data)
    )
    ordered = jax.tree.map(lambda leaf: leaf[order], data)
    one, one_sums = compile_quickly(partial(train_step, accumulate=8), state, ordered)(state, ordered)
    first = jax.tree.map(lambda leaf: leaf[0], (divided.params, divided.batch_stats, sums))
    assert_close(first, (one.params, one.batch_stats, one_sums), 1e-5)
    mesh = Mesh(np.array(jax.devices()[:2]), ("two",))
    split, whole = PartitionSpec("two"), PartitionSpec()
    mapped = jax.shard_map(
        partial(train_step, axis_name="two", accumulate=4), mesh=mesh, in_specs=(whole, split), out_specs=(whole, whole)
    )
    # Each of two devices takes its half in four parts.
    halves = jnp.concatenate([half.reshape(4, 2).T.ravel() for half in jnp.split(jnp.arange(16), 2)])
    ordered = jax.tree.map(lambda leaf: leaf[halves], data)
    both, _ = jax.jit(mapped)(state, ordered)
    assert_close(both.params, one.params, 1e-5)
    assert_close(both.batch_stats, one.batch_stats, 1e-5)


def test_parts_must_be_equal():
    with pytest.raises(ValueError, match="accumulate must divide the 16 examples of a device, got 3"):
        jax.eval_shape(partial(train_step, accumulate=3), dense_state(), small_batch())


def test_auxiliary_heads_are_learned_from_with_their_weight(compile_quickly):
    state, data = dense_state(sown=True), small_batch()

    def loss(params):
        logits, updates = state.apply_fn({"params": params}, data["image"], train=True, mutable=["aux_logits"])
        losses = [
            -jax.nn.log_softmax(each)[jnp.arange(16), data["label"]].mean()
            for each in (logits, updates["aux_logits"]["aux1"][0])
        ]
        return losses[0] + 0.3 * losses[1], losses[0]

    grads, main = compile_quickly(jax.grad(loss, has_aux=True), state.params)(state.params)
    new, sums = compile_quickly(partial(train_step, aux_weight=0.3), state, data)(state, data)
    assert_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads), 1e-6)
    np.testing.assert_allclose(means(sums)["loss"], main, rtol=1e-5)


def test_heads_that_nobody_asks_for_and_heads_that_are_not_there_cost_nothing():
    def products(state, **options):
        return str(jax.make_jaxpr(partial(train_step, **options))(state, small_batch())).count("dot_general")

    plain = products(dense_state())
    assert products(dense_state(), aux_weight=0.3) == plain
    # One product forward, two backward.
    assert products(dense_state(sown=True), aux_weight=0.3) == plain + 3


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_everything_else_in_float32():
    model = cnnjax.create_model("resnet20", num_classes=10, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)
    state = TrainState.abstract(model, make_optimizer("sgd", 0.1), images, ema=True)
    data = {"image": images, "label": jax.ShapeDtypeStruct((4,), jnp.int32)}
    text = str(jax.make_jaxpr(train_step)(state, data))
    convolutions = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", text)
    assert convolutions
    assert set(convolutions) == {"bf16"}
    new, sums = jax.eval_shape(train_step, state, data)
    floats = [leaf.dtype for leaf in jax.tree.leaves((new, sums)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype("float32")}
    # Nor are statistics or the loss reduced in bfloat16.
    assert not re.search(r":bf16\[[\d,]*\] = reduce_sum\[axes=\(0, 1, 2\)", text)


@pytest.mark.parametrize("init", sorted({*INITS} - {"dirac"}))
def test_kernels_start_as_asked(init, compile_quickly):
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 20, 40)), "bias": jnp.ones(40)},
        "norm": {"scale": jnp.ones(40)},
        "classifier": {"kernel": jnp.zeros((100, 300))},
    }
    shapes = [(9 * 20, 9 * 40, "conv"), (100, 300, "classifier")]
    drawn = compile_quickly(partial(redraw_kernels, init=init), params, jax.random.key(0))(params, jax.random.key(0))
    for inputs, outputs, name in shapes:
        variance = {"glorot": 2 / (inputs + outputs), "he": 2 / inputs, "lecun": 1 / inputs}
        expected = {name: value**0.5 for name, value in variance.items()} | {"truncated_normal": 0.02 * 0.8796}
        assert float(drawn[name]["kernel"].std()) == pytest.approx(expected[init], rel=0.05)
    assert_equal((drawn["conv"]["bias"], drawn["norm"]), (params["conv"]["bias"], params["norm"]))
    with pytest.raises(ValueError, match="init must be one of glorot, he, lecun, truncated_normal, dirac, got 'zero'"):
        redraw_kernels(params, jax.random.key(0), "zero")
