from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.training import make_optimizer, make_schedule
from cnnjax.training.optim import OPTIMIZERS, SCHEDULES


def test_schedules():
    constant = make_schedule("constant", 0.1, 100)
    np.testing.assert_allclose([constant(0), constant(99)], 0.1)
    cosine = make_schedule("cosine", 0.1, 110, warmup_steps=10)
    np.testing.assert_allclose(
        [cosine(0), cosine(5), cosine(10), cosine(60), cosine(110)], [0, 0.05, 0.1, 0.05, 0], atol=1e-8
    )
    steps = make_schedule("multistep", 0.1, 100)
    np.testing.assert_allclose([steps(49), steps(50), steps(74), steps(75)], [0.1, 0.01, 0.01, 0.001], rtol=1e-5)
    warm = make_schedule("multistep", 0.1, 100, warmup_steps=10)
    np.testing.assert_allclose([warm(5), warm(49), warm(50), warm(75)], [0.05, 0.1, 0.01, 0.001], rtol=1e-5)


def test_schedules_that_decay_by_epochs_count_from_the_start_of_the_run():
    step = make_schedule("step", 0.1, 100, warmup_steps=10, decay_steps=20, decay=0.5)
    np.testing.assert_allclose([step(5), step(19), step(20), step(45)], [0.05, 0.1, 0.05, 0.025], rtol=1e-5)
    smooth = make_schedule("exponential", 0.1, 100, decay_steps=20, decay=0.5)
    np.testing.assert_allclose([smooth(0), smooth(10), smooth(20)], [0.1, 0.1 * 0.5**0.5, 0.05], rtol=1e-5)


def test_schedules_between_two_rates():
    line = make_schedule("polynomial", 0.1, 110, warmup_steps=10, start_factor=0.5, final_factor=0.1)
    np.testing.assert_allclose([line(0), line(5), line(10), line(60), line(110)], [0.05, 0.075, 0.1, 0.055, 0.01])
    square = make_schedule("polynomial", 0.1, 100, power=2)
    np.testing.assert_allclose(square(50), 0.025, rtol=1e-5)
    cosine = make_schedule("cosine", 0.1, 100, final_factor=0.2)
    np.testing.assert_allclose([cosine(50), cosine(100)], [0.06, 0.02], rtol=1e-5)


@pytest.mark.slow
def test_one_cycle_is_pytorchs():
    # torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=...) gives these at start, peak and end.
    cycle = make_schedule("onecycle", 0.1, 100)
    np.testing.assert_allclose([cycle(0), cycle(30), cycle(100)], [0.004, 0.1, 4e-7], rtol=1e-4)
    np.testing.assert_allclose(make_schedule("onecycle", 0.1, 100, warmup_steps=10)(10), 0.1, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_to_its_rate_and_compiles(name):
    # Some of optax's schedules multiply by truth values.
    schedule = make_schedule(name, 0.1, 50, warmup_steps=5, decay_steps=40)
    rates = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(50)))
    assert rates[0] < rates[2] < rates[4]
    assert rates.max() == pytest.approx(0.1)
    assert (rates >= 0).all()


PARAMS = {"kernel": np.array([[3.0, -0.5], [0.0, 1.0]], np.float32), "bias": np.array([0.2, -0.1], np.float32)}
GRADS = {"kernel": np.array([[0.3, -2.0], [0.1, 0.0]], np.float32), "bias": np.array([1.0, 0.4], np.float32)}


def steps(tx, count=2):
    """Return the parameters after some steps along constant gradients."""
    # Optax's own bias corrections raise floats to integer powers.
    params, state = jax.tree.map(jnp.asarray, PARAMS), tx.init(PARAMS)
    for _ in range(count):
        updates, state = tx.update(jax.tree.map(jnp.asarray, GRADS), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_rmsprop_is_tensorflows():
    """ms = 0.9 ms + 0.1 g^2 from 1; mom = 0.9 mom + rate g / sqrt(ms + 1e-3); w -= mom."""
    square, moment, weight = 1.0, 0.0, 3.0
    for _ in range(3):
        square = 0.9 * square + 0.1 * 0.3**2
        moment = 0.9 * moment + 0.1 * 0.3 / np.sqrt(square + 1e-3)
        weight -= moment
    np.testing.assert_allclose(steps(make_optimizer("rmsprop", 0.1), 3)["kernel"][0, 0], weight, rtol=1e-5)


def test_lars_is_its_equation_and_leaves_biases_alone():
    """Each kernel moves by the rate, 1e-3 of its norm and the direction of gradient and decay together."""
    direction = GRADS["kernel"] + 0.5 * PARAMS["kernel"]
    moved = PARAMS["kernel"] - 0.1 * 1e-3 * np.linalg.norm(PARAMS["kernel"]) * direction / np.linalg.norm(direction)
    after = steps(make_optimizer("lars", 0.1, weight_decay=0.5), 1)
    np.testing.assert_allclose(after["kernel"], moved, rtol=1e-5)
    np.testing.assert_allclose(after["bias"], PARAMS["bias"] - 0.1 * GRADS["bias"], rtol=1e-5)


def test_parts_decay_by_their_own_factor():
    """The last pattern that matches counts; what is in front of the optimizer sees all parts together."""
    factors = {"**": 0.5, "bias": 0.0}
    for name in ("sgd", "adamw"):
        tx = make_optimizer(name, 1.0, momentum=0, weight_decay=0.1, decay_all=True, decay_factors=factors)
        parts = {"kernel": 0.05, "bias": 0.0}
        expected = {
            part: steps(make_optimizer(name, 1.0, momentum=0, weight_decay=decay, decay_all=True))[part]
            for part, decay in parts.items()
        }
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), steps(tx), expected)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in GRADS.values()))
    clipped = steps(make_optimizer("sgd", 1.0, momentum=0, clip_norm=0.5, decay_factors=factors), 1)
    np.testing.assert_allclose(clipped["bias"], PARAMS["bias"] - GRADS["bias"] * 0.5 / norm, rtol=1e-5)


def test_muon_steps_along_orthogonal_kernels_of_fixed_norm():
    """All singular values of a step are about the rate; biases, dense layers and classifiers take SGD's steps."""
    random = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 4, 8), "dense": (4, 6), "head": (1, 1, 8, 3)}
    params = {name: {"kernel": random.normal(size=shape).astype(np.float32)} for name, shape in shapes.items()}
    params["head"] = {"classifier": params["head"]}
    params["conv"]["bias"] = np.ones(8, np.float32)
    grads = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), params)
    tx = make_optimizer("muon", 0.1, momentum=0.6, nesterov=True)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    kernel = params["conv"]["kernel"]
    scaled = kernel * np.sqrt(8) / np.linalg.norm(kernel)
    step = (kernel + updates["conv"]["kernel"] - scaled).reshape(36, 8)
    values = np.linalg.svd(step / 0.1, compute_uv=False)
    assert 0.5 < values.min() < values.max() < 1.3
    # Not across the gradient: it is that of the same singular vectors.
    assert (step * grads["conv"]["kernel"].reshape(36, 8)).sum() < -0.9 * np.linalg.norm(step) * np.linalg.norm(
        grads["conv"]["kernel"]
    )
    for path in (("conv", "bias"), ("dense", "kernel"), ("head", "classifier")):
        ours, gradient = updates, grads
        for part in path:
            ours, gradient = ours[part], gradient[part]
        jax.tree.map(lambda a, g: np.testing.assert_allclose(a, -0.1 * 1.85 * g, rtol=1e-5), ours, gradient)


def test_nesterov_looks_ahead():
    plain, ahead = (steps(make_optimizer("sgd", 0.1, nesterov=value), 1)["bias"] for value in (False, True))
    np.testing.assert_allclose(plain, PARAMS["bias"] - 0.1 * GRADS["bias"], rtol=1e-5)
    np.testing.assert_allclose(ahead, PARAMS["bias"] - 0.1 * 1.9 * GRADS["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_decays_weights_only(name):
    plain, decayed, all_decayed = (
        steps(make_optimizer(name, 0.01, weight_decay=decay, decay_all=everything))
        for decay, everything in ((0.0, False), (0.9, False), (0.9, True))
    )
    assert plain["bias"][0] < PARAMS["bias"][0]
    assert not np.array_equal(plain["kernel"], decayed["kernel"])
    np.testing.assert_array_equal(plain["bias"], decayed["bias"])
    np.testing.assert_array_equal(decayed["kernel"], all_decayed["kernel"])
    # Lion takes signs of these gradients and then decays; the others change with the decay too.
    assert not np.array_equal(plain["bias"], all_decayed["bias"])


def test_penalties_are_terms_of_the_loss():
    """l1 sum|w| + l2 / 2 sum w^2, of kernels, clipped with the rest of the gradient."""
    for extra, clip in (({}, None), ({"clip_value": 0.25}, 0.25)):
        after = steps(make_optimizer("sgd", 1.0, momentum=0, l1=0.1, l2=0.01, **extra), 1)
        grads = GRADS["kernel"] + 0.1 * np.sign(PARAMS["kernel"]) + 0.01 * PARAMS["kernel"]
        bias = GRADS["bias"]
        if clip:
            grads, bias = np.clip(grads, -clip, clip), np.clip(bias, -clip, clip)
        np.testing.assert_allclose(after["kernel"], PARAMS["kernel"] - grads, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(after["bias"], PARAMS["bias"] - bias, rtol=1e-5)


def test_clipping_by_norm_comes_before_decay():
    norm = np.sqrt(sum((leaf**2).sum() for leaf in GRADS.values()))
    after = steps(make_optimizer("sgd", 1.0, momentum=0, weight_decay=0.1, clip_norm=0.5), 1)
    expected = PARAMS["kernel"] - GRADS["kernel"] * 0.5 / norm - 0.1 * PARAMS["kernel"]
    np.testing.assert_allclose(after["kernel"], expected, rtol=1e-5, atol=1e-7)


def test_impossible_ones_are_refused():
    with pytest.raises(ValueError, match="warm-up of 10 steps leaves nothing of a run of 10"):
        make_schedule("cosine", 0.1, 10, warmup_steps=10)
    with pytest.raises(ValueError, match="constant, step, multistep, .*, got 'linear'"):
        make_schedule("linear", 0.1, 10)
    with pytest.raises(ValueError, match="decays first after 20 steps, the run ends after 10"):
        make_schedule("step", 0.1, 10, decay_steps=20)
    with pytest.raises(ValueError, match="exponential needs a decay interval"):
        make_schedule("exponential", 0.1, 10)
    with pytest.raises(ValueError, match="milestones must lie within the run of 10 steps, got steps 5, 12"):
        make_schedule("multistep", 0.1, 10, milestones=(0.5, 1.2))
    with pytest.raises(ValueError, match="sgd, adam, adamw, .*, got 'sdg'"):
        make_optimizer("sdg", 0.1)
