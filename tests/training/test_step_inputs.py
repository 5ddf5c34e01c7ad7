"""What a step makes of labels, masks and losses that do not fit, and of those that are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.training import eval_step, train_step
from cnnjax.training.losses import binary_cross_entropy, cross_entropy
from cnnjax.training.metrics import Classification


def batch_of(**changes):
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    return {"image": images, "label": jnp.arange(4, dtype=jnp.int32)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": jnp.zeros(1, jnp.int32)}, r"label must be that of the 4 images.*\(1,\)"),
        ({"label": jnp.zeros((4, 1), jnp.int32)}, r"int\[4\] or float\[4, 10\].*int32\[4, 1\]"),
        ({"label": jnp.zeros((1, 10), jnp.float32)}, r"label must be that of the 4 images.*\(1, 10\)"),
        ({"label": jnp.zeros(4, jnp.float32)}, r"int\[4\] or float\[4, 10\].*float32\[4\]"),
        ({"label": jnp.zeros(4, bool)}, r"int\[4\] or float\[4, 10\].*bool\[4\]"),
        ({"label": jnp.zeros((4, 9), jnp.float32)}, r"float\[4, 10\].*float32\[4, 9\]"),
        ({"label": jnp.zeros((), jnp.int32)}, r"label must be that of the 4 images"),
        ({"mask": jnp.ones(1, bool)}, r"mask must be that of the 4 images"),
        ({"mask": jnp.ones((4, 1), bool)}, r"mask must be that of the 4 images"),
        ({"image": jnp.zeros((0, 8, 8, 3)), "label": jnp.zeros(0, jnp.int32)}, "one example or more"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_images_is_refused_when_traced(make_tiny_state, changes, message):
    state = jax.eval_shape(lambda: make_tiny_state())
    for step in (train_step, eval_step):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(step, state, batch_of(**changes))


@pytest.mark.parametrize("loss", [lambda outputs, batch: outputs.mean(), lambda outputs, batch: outputs[:, :1]])
def test_a_loss_gives_one_number_for_each_example(make_tiny_state, loss):
    state = jax.eval_shape(lambda: make_tiny_state())
    with pytest.raises(ValueError, match="one number for each of 4 examples"):
        jax.eval_shape(lambda state, batch: train_step(state, batch, loss=loss), state, batch_of())


@pytest.mark.slow
def test_examples_without_a_label_count_in_no_loss(make_tiny_state):
    state = make_tiny_state()
    labels = jnp.array([0, 1, -1, 3], jnp.int32)
    left_out = jnp.array([True, True, False, True])
    sums = eval_step(state, batch_of(label=labels))
    expected = eval_step(state, batch_of(mask=left_out))
    assert int(sums["count"]) == 3
    jax.tree.map(np.testing.assert_array_equal, sums, expected)
    after, trained = jax.jit(train_step)(state, batch_of(label=labels))
    assert int(trained["count"]) == 3
    others = jax.jit(train_step)(state, batch_of(label=labels.at[2].set(-100)))[0]
    jax.tree.map(np.testing.assert_array_equal, after.params, others.params)


def test_soft_labels_below_0_are_none(make_tiny_state):
    state = make_tiny_state()
    soft = jax.nn.one_hot(jnp.array([0, 1, 2, 3]), 10).at[2].set(-1)
    sums = eval_step(state, batch_of(label=soft))
    expected = eval_step(state, batch_of(label=jnp.array([0, 1, -1, 3], jnp.int32)))
    assert int(sums["count"]) == 3
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6)


@pytest.mark.slow
def test_labels_that_no_class_has_show():
    logits = jnp.zeros((3, 10))
    for loss in (cross_entropy, binary_cross_entropy):
        losses = loss(logits, jnp.array([9, 10, -1], jnp.int32))
        np.testing.assert_array_equal(jnp.isnan(losses), [False, True, False])
        assert losses[2] == 0
    with pytest.raises(ValueError, match="take binary_cross_entropy"):
        cross_entropy(jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize("labels", [jnp.array([0, 1, 1, 0], jnp.int32), jnp.array([[0.0], [1.0], [1.0], [0.0]])])
def test_one_logit_is_that_of_class_1(labels):
    logits = jnp.array([[-3.0], [2.0], [-1.0], [4.0]])
    probability = jax.nn.sigmoid(logits[:, 0])
    expected = -jnp.log(jnp.where(labels.reshape(-1) == 1, probability, 1 - probability))
    np.testing.assert_allclose(binary_cross_entropy(logits, labels), expected, rtol=1e-5)
    sums = Classification(per_class=True, num_classes=2).sums(logits, {"label": labels}, jnp.ones(4, bool))
    assert int(sums["correct"]) == 2
    np.testing.assert_array_equal(sums["class_correct"], [1, 1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_optimizers_that_want_the_loss_get_it(make_tiny_state, accumulate):
    seen = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda updates, state, params=None, *, value, **_: (updates, value)
    )
    state = make_tiny_state(optax.chain(optax.sgd(0.1), seen))
    step = jax.jit(lambda state, batch: train_step(state, batch, accumulate=accumulate))
    after, sums = step(state, batch_of())
    np.testing.assert_allclose(after.opt_state[-1], sums["loss_sum"] / 4, rtol=1e-6)
