"""Training with frozen parts: no backward pass, no change of a bit, and parts that thaw later."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax
from cnnjax import finetune
from cnnjax.nn import BatchNorm
from cnnjax.training import (
    CheckpointMismatchError,
    Checkpoints,
    Devices,
    cross_entropy,
    eval_step,
    make_optimizer,
    train_step,
)
from cnnjax.training.metrics import Regression, means, zero_sums

FROZEN = ["stem", "stage*"]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture
def convolutions(compile_quickly):
    """Return a function that counts the convolutions that XLA leaves in a compiled program."""

    def count(function, *args):
        text = compile_quickly(function, *args).as_text()
        return sum(len(re.findall(r"\bconvolution\(", line)) + ("__onednn$conv" in line) for line in text.splitlines())

    return count


@pytest.fixture
def quick(compile_quickly):
    """Return a function that compiles train_step for a state and a batch."""
    return lambda state, batch, **options: compile_quickly(partial(train_step, **options), state, batch)


def make_state(plain, frozen=FROZEN, tx=None, **options):
    model, variables, _, _ = plain
    return finetune.train_state(
        model, variables, tx or optax.adamw(0.1, weight_decay=0.1), jax.random.key(0), frozen=frozen, **options
    )


def make_batch(plain):
    return {"image": plain[2], "label": plain[3]}


def test_states_share_no_array_with_what_they_are_made_from(plain):
    model, variables, _, _ = plain
    key = jax.random.key(0)
    first, second = (finetune.train_state(model, variables, optax.adam(0.1), key, frozen=FROZEN) for _ in range(2))
    for leaf in jax.tree.leaves(first):
        # What becomes of a state that is donated to a step.
        leaf.delete()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((second, variables, key)))


@pytest.mark.users
def test_frozen_parts_cost_no_backward_pass_and_keep_their_statistics(plain, convolutions, compile_quickly):
    model, variables, images, labels = plain

    def loss(params, frozen):
        variables_now = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, updates = finetune.apply_frozen(
            model, variables_now, images, frozen=frozen, train=True, mutable=["batch_stats"]
        )
        return cross_entropy(logits, labels).mean(), updates["batch_stats"]

    def gradients(frozen):
        return lambda params: jax.value_and_grad(partial(loss, frozen=frozen), has_aux=True)(params)

    params = variables["params"]
    forward = convolutions(lambda p: model.apply({**variables, "params": p}, images), params)
    assert forward == 4
    # Only the head: nothing but the forward pass. Two stages: their two gradients each, less the first one's input.
    assert convolutions(gradients(FROZEN), params) == forward
    assert convolutions(gradients(["stem", "stage1"]), params) == forward + 3
    assert convolutions(gradients([]), params) == forward + 7

    function = gradients(["stem", "stage1", "stage2/conv1"])
    (_, stats), grads = compile_quickly(function, params)(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves([grads["stem"], grads["stage1"], grads["stage2"]["conv1"]]))
    assert np.any(grads["stage2"]["norm1"]["scale"])
    for part in ("stem", "stage1"):
        assert bits(stats[part]) == bits(variables["batch_stats"][part])
    # A normalisation that trains goes on measuring.
    for part in ("stage2", "stage3"):
        assert bits(stats[part]) != bits(variables["batch_stats"][part])
    # With all normalisations on their statistics, training mode gives what evaluation mode does.
    logits, _ = finetune.apply_frozen(model, variables, images, frozen=FROZEN, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, model.apply(variables, images))


def test_stopped_gradients_of_any_function(plain):
    params = plain[1]["params"]
    grads = jax.grad(lambda p: optax.tree.norm(finetune.stop_frozen_gradients(p, FROZEN)))(params)
    assert not any(np.any(leaf) for part in grads if part != "head" for leaf in jax.tree.leaves(grads[part]))
    assert np.any(grads["head"]["kernel"])


class Mixed(nn.Module):
    """Normalisations of Linen and of ours, and one without parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="theirs")(x)
        x = BatchNorm(name="ours")(x, use_running_average=not train)
        x = nn.remat(BatchNorm)(use_running_average=not train, name="rematerialised")(x)
        return BatchNorm(use_running_average=not train, use_scale=False, use_bias=False, name="bare")(x)


@pytest.mark.slow
def test_frozen_batch_norm_of_any_module():
    model, x = Mixed(), jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    before = variables["batch_stats"]

    def run(patterns):
        with finetune.frozen_batch_norm(patterns):
            return model.apply(variables, x, train=True, mutable=["batch_stats"])

    for pattern in before:
        y, updates = run(pattern)
        for name, stats in updates["batch_stats"].items():
            assert (bits(stats) == bits(before[name])) == (name == pattern)
    y, updates = run(["**"])
    np.testing.assert_array_equal(y, model.apply(variables, x))
    assert bits(updates) == bits({"batch_stats": before})
    # Nothing is left behind.
    _, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
    assert bits(updates) != bits({"batch_stats": before})

    with pytest.raises(ValueError, match="pattern 'their' matches no batch normalisation; near are theirs"):
        run(["their"])
    compiled = jax.jit(lambda x: model.apply(variables, x))
    compiled(x)
    never_traced = pytest.raises(ValueError, match="no batch normalisation was traced .* into the compiled function")
    with never_traced, finetune.frozen_batch_norm("**"):
        compiled(x)
    with pytest.raises(ZeroDivisionError), finetune.frozen_batch_norm("**"):
        raise ZeroDivisionError


def test_statistics_are_frozen_with_the_parameters_around_them():
    stats = {"stem": {"norm1": {"mean": 0.0}, "bare": {"mean": 0.0}}, "head": {"bare": {"mean": 0.0}}}
    params = {"stem": {"norm1": {"scale": 0.0, "bias": 0.0}, "conv1": {"kernel": 0.0}}, "head": {"kernel": 0.0}}
    both = {"stem/norm1/scale", "stem/norm1/bias"}
    assert finetune.frozen_statistics(params, stats, {"stem/norm1/scale"}) == frozenset()
    assert finetune.frozen_statistics(params, stats, both) == {"stem/norm1/mean"}
    assert finetune.frozen_statistics(params, stats, both | {"stem/conv1/kernel"}) == {
        "stem/norm1/mean",
        "stem/bare/mean",
    }


def test_a_training_step_leaves_every_frozen_bit(plain, quick):
    state, batch = make_state(plain, ema=True), make_batch(plain)
    assert "batch_stats/stage2/norm1/mean" in state.frozen
    step = quick(state, batch, ema_decay=0.9)
    new = state
    for _ in range(3):
        new, _ = step(new, batch)
    finetune.check_frozen(state, new, FROZEN)
    finetune.check_frozen({"params": state.params}, {"params": new.params}, FROZEN)
    finetune.check_frozen(state.ema, new.ema, FROZEN)
    assert bits(new.params["head"]) != bits(state.params["head"])
    assert bits(new.ema["params"]["head"]) != bits(state.ema["params"]["head"])
    # adamw: two moments and a count, of the head alone.
    head = sizes(state.params["head"])
    assert sizes(state.opt_state) == 2 * head + 1
    assert not [leaf for leaf in jax.tree.leaves(new.opt_state) if leaf.size > head]

    changed = jax.tree.map(lambda leaf: leaf, new.params)
    changed["stem"]["conv1"]["kernel"] = -changed["stem"]["conv1"]["kernel"]
    with pytest.raises(AssertionError, match="1 of 20 frozen arrays have changed: params/stem/conv1/kernel$"):
        finetune.check_frozen(state, new.replace(params=changed), FROZEN)
    moved = new.replace(batch_stats=jax.tree.map(lambda leaf: leaf + 1, new.batch_stats))
    with pytest.raises(AssertionError, match="8 of 20 .* batch_stats/stage1/norm1/mean"):
        finetune.check_frozen(state, moved, FROZEN)


def test_neither_parts_nor_penalties_touch_a_frozen_bit(plain, quick):
    tx = make_optimizer("sgd", 0.1, weight_decay=0.1, decay_all=True, l1=0.1, l2=0.1, clip_norm=1.0)
    state, batch = make_state(plain, tx=tx, ema=True), make_batch(plain)
    new, _ = quick(state, batch, ema_decay=0.9, accumulate=2)(state, batch)
    finetune.check_frozen(state, new, FROZEN)
    finetune.check_frozen(state.ema, new.ema, FROZEN)
    assert bits(new.params["head"]) != bits(state.params["head"])


@pytest.mark.slow
def test_a_training_step_with_a_frozen_trunk_runs_forward_only(plain, convolutions):
    batch = make_batch(plain)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1))
    assert convolutions(train_step, make_state(plain, tx=tx), batch) == 4
    assert convolutions(train_step, make_state(plain, frozen=(), tx=tx), batch) == 11


def test_a_step_without_anything_frozen_is_that_of_optax(plain, quick):
    model, variables, images, labels = plain
    tx = optax.sgd(0.1, 0.9)
    state, batch = make_state(plain, frozen=(), tx=tx), make_batch(plain)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels).mean()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    updates, _ = tx.update(grads, tx.init(variables["params"]), variables["params"])
    expected = optax.apply_updates(variables["params"], updates)
    new, _ = quick(state, batch)(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), new.params, expected)


@pytest.mark.slow
def test_frozen_leaves_stay_on_eight_devices_too(plain, quick):
    state, batch = make_state(plain, tx=optax.sgd(0.1, 0.9), ema=True), make_batch(plain)
    alone, _ = quick(state, batch, ema_decay=0.9)(state, batch)
    devices = Devices("pmap", 8)
    step = devices.compile_train(partial(train_step, ema_decay=0.9))
    replicated, _ = step(devices.replicate(state), devices.replicate(zero_sums()), devices.shard(batch))
    new = devices.unreplicate(replicated)
    finetune.check_frozen(state, new, FROZEN)
    finetune.check_frozen(state.ema, new.ema, FROZEN)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new.params, alone.params)


SCHEDULE = {0: ["head"], 2: ["stage3"], 4: ["**"]}


@pytest.mark.slow
def test_thawing_keeps_moments_and_compiles_once_a_phase(plain):
    schedule = finetune.unfreeze_schedule(SCHEDULE)
    tx, batch = optax.sgd(0.01, 0.9), make_batch(plain)
    params = plain[1]["params"]
    schedule.check(params, epochs=5)
    state = make_state(plain, frozen=schedule.frozen_mask(params, 0), tx=tx)
    traces = []

    def counted(state, batch):
        traces.append(None)
        return train_step(state, batch)

    step = jax.jit(counted)
    for epoch in range(6):
        before = state
        state = schedule.advance(state, tx, epoch)
        assert (state is before) == (epoch not in (2, 4))
        if epoch == 2:
            (old,), (new,) = (
                jax.tree.leaves(before.opt_state.inner_state[0].trace["head"]["bias"]),
                jax.tree.leaves(state.opt_state.inner_state[0].trace["head"]["bias"]),
            )
            assert bits(old) == bits(new)
            assert np.any(new)
            moments = state.opt_state.inner_state[0].trace
            assert not np.any(moments["stage3"]["conv1"]["kernel"])
            assert isinstance(moments["stage2"]["conv1"]["kernel"], optax.MaskedNode)
        start = state
        state, _ = step(state, batch)
        finetune.check_frozen(start, state, schedule.frozen_mask(params, epoch))
        assert (bits(state.params["stage3"]) != bits(start.params["stage3"])) == (epoch >= 2)
        assert (bits(state.params["stem"]) != bits(start.params["stem"])) == (epoch >= 4)
    assert len(traces) == 3
    assert state.frozen == frozenset()


def test_what_is_carried_over_is_told(plain, quick):
    tx = optax.adam(0.1)
    state, batch = make_state(plain, frozen=["stem", "stage[12]"], tx=tx), make_batch(plain)
    state, _ = quick(state, batch)(state, batch)
    new, carried = finetune.refreeze(state, tx, ["stem", "stage2", "stage3"])
    assert carried.started == ("stage1/conv1/kernel", "stage1/norm1/bias", "stage1/norm1/scale")
    assert carried.dropped == ("stage3/conv1/kernel", "stage3/norm1/bias", "stage3/norm1/scale")
    inner = new.opt_state.inner_state[0]
    assert int(inner.count) == 1
    assert bits(inner.mu["head"]) == bits(state.opt_state.inner_state[0].mu["head"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves([inner.mu["stage1"], inner.nu["stage1"]]))
    with pytest.raises(ValueError, match="the optimizer's states share nothing"):
        finetune.carry_over(
            finetune.freeze(optax.sgd(0.1, 0.9), state.params, "stem"), state.params, optax.adam(0.1).init(state.params)
        )


def test_what_freezes_later_keeps_its_bits_from_then_on(plain, quick):
    schedule = finetune.FreezeSchedule(((1, ("stem/norm1/bias",)),), always=("stem/conv1",))
    params, tx, batch = plain[1]["params"], optax.sgd(0.01, 0.9), make_batch(plain)
    schedule.check(params, epochs=2)
    state = make_state(plain, frozen=schedule.frozen_mask(params, 0), tx=tx)
    assert schedule.advance(state, tx, 0) is state
    frozen = schedule.advance(state, tx, 1)
    assert {path for path in frozen.frozen - state.frozen} == {"params/stem/norm1/bias"}
    for before, moves in ((state, True), (frozen, False)):
        after, _ = quick(before, batch)(before, batch)
        moved = bits(after.params["stem"]["norm1"]["bias"]) != bits(before.params["stem"]["norm1"]["bias"])
        assert moved == moves
        assert bits(after.params["head"]) != bits(before.params["head"])
        finetune.check_frozen(before, after, "stem/conv1")


def test_bad_schedules(plain):
    params = plain[1]["params"]
    for freezing, message in (
        (finetune.FreezeSchedule(((4, ("stem",)),)), "names epoch 4, which must lie .* end of a run of 4 epochs"),
        (finetune.FreezeSchedule(((1, ("stem/conv1",)),), ("stem",)), "epoch 1: stem/conv1 is frozen already"),
        (finetune.FreezeSchedule(((1, ("stage7",)),)), "pattern 'stage7' matches no parameter"),
        (finetune.FreezeSchedule(((1, ("**",)),)), "freezes all"),
    ):
        with pytest.raises(ValueError, match=message):
            freezing.check(params, epochs=4)
    for phases, message in (
        ({}, "must say what trains from epoch 0 on"),
        ({5: ["head"]}, "must say what trains from epoch 0 on"),
        ({0: []}, "no pattern for epoch 0"),
        ({0: ["head"], -1: ["stem"]}, "whole number from 0, got -1"),
        ({0: ["head"], 1.5: ["stem"]}, "whole number from 0, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.unfreeze_schedule(phases)
    with pytest.raises(ValueError, match="ends after 4 epochs, before something is unfrozen at epoch 4"):
        finetune.unfreeze_schedule(SCHEDULE).check(params, epochs=4)
    with pytest.raises(ValueError, match="unfreeze at epoch 1: head/kernel trains already; leave it out"):
        finetune.unfreeze_schedule({0: ["head"], 1: ["head/kernel"]}).check(params, epochs=4)
    with pytest.raises(ValueError, match="unfreeze at epoch 1: pattern 'stage7' matches no parameter; near paths are"):
        finetune.unfreeze_schedule({0: ["head"], 1: ["stage7"]}).check(params, epochs=4)


def test_a_checkpoint_goes_on_under_another_mask(plain, quick, tmp_path):
    tx, batch = optax.adam(0.1), make_batch(plain)
    state = make_state(plain, frozen=["stem", "stage[12]"], tx=tx)
    state, _ = quick(state, batch)(state, batch)
    wider = make_state(plain, frozen=["stem", "stage[23]"], tx=tx)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {"epoch": 1})
        checkpoints.wait()
        same, _ = checkpoints.restore(1, state)
        assert checkpoints.notices == []
        restored, run = checkpoints.restore(1, wider)
        started, dropped = checkpoints.notices
        # Another optimizer is no other mask.
        with pytest.raises(CheckpointMismatchError, match="only in the checkpoint"):
            checkpoints.restore(1, make_state(plain, frozen=["stem", "stage[23]"], tx=optax.sgd(0.1, 0.9)))
    assert run == {"epoch": 1}
    assert started.startswith("stage1/conv1/kernel, stage1/norm1/bias, stage1/norm1/scale are trained again or for the")
    assert dropped.startswith("stage3/conv1/kernel, stage3/norm1/bias, stage3/norm1/scale are frozen now")
    expected, _ = finetune.refreeze(state, tx, ["stem", "stage[23]"])
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(expected.opt_state)
    assert bits(restored.opt_state) == bits(expected.opt_state)
    assert bits(restored.params) == bits(state.params)
    assert restored.frozen == wider.frozen
    assert bits(same.opt_state) == bits(state.opt_state)
    new, _ = quick(restored, batch)(restored, batch)
    finetune.check_frozen(restored, new, ["stem", "stage[23]"])


@pytest.mark.parametrize(("loss", "power"), [("mse", 2), ("mae", 1)])
def test_a_head_for_numbers_trains(loss, power, plain, quick):
    _, variables, images, _ = plain
    model = type(plain[0])(num_classes=2)
    random = np.random.default_rng(1)
    head = {"kernel": random.standard_normal((4, 2)) * 0.1, "bias": np.zeros(2)}
    params = variables["params"] | {"head": jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), head)}
    variables = variables | {"params": params}
    state = finetune.train_state(model, variables, optax.adam(0.05), jax.random.key(0), frozen=FROZEN)
    target = jnp.asarray(random.standard_normal((8, 2)), jnp.float32)
    # The last two are padding, whose numbers are not to be learned.
    batch = {"image": images, "target": target.at[6:].set(1e6), "mask": jnp.arange(8) < 6}
    expected = (np.abs(model.apply(variables, images) - target)[:6] ** power).mean()
    step = quick(state, batch, loss=loss)
    losses = []
    for _ in range(30):
        state, sums = step(state, batch)
        losses.append(means(sums, Regression())["loss"])
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(
        means(eval_step(state, batch, loss=loss), Regression())[loss],
        (np.abs(state.apply_fn(state.variables, images) - target)[:6] ** power).mean(),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="outputs and target must have one shape, got .8, 2. and .8, 1."):
        eval_step(state, batch | {"target": target[:, :1]}, loss=loss)
    with pytest.raises(
        ValueError, match="loss must be one of cross_entropy, binary_cross_entropy, mse, mae, huber, got 'hinge'"
    ):
        eval_step(state, batch, loss="hinge")


@pytest.mark.slow
def test_folded_normalisations_freeze_too(compile_quickly):
    fields = {"stage_sizes": (1, 1), "features": 8, "output_stride": 8, "fold_norms": True}
    model = cnnjax.create_model("resnet50", num_classes=3, **fields)
    random = np.random.default_rng(0)
    images = jnp.asarray(random.standard_normal((4, 16, 16, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape) * 0.3, leaf.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, variables["batch_stats"])

    def run(variables, frozen):
        return finetune.apply_frozen(model, variables, images, frozen=frozen, train=True, mutable=["batch_stats"])

    logits, updates = compile_quickly(partial(run, frozen=FROZEN), variables)(variables)
    assert bits(updates["batch_stats"]) == bits(variables["batch_stats"])
    evaluated = compile_quickly(lambda v: model.apply(v, images), variables)(variables)
    np.testing.assert_allclose(logits, evaluated, rtol=1e-5, atol=1e-5)
    _, updates = compile_quickly(partial(run, frozen=["stem", "stage2"]), variables)(variables)
    for part in ("stem", "stage2"):
        assert bits(updates["batch_stats"][part]) == bits(variables["batch_stats"][part])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved["stage1"]))
