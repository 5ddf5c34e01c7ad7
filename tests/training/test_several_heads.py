"""One loss for several heads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax
from cnnjax import finetune
from cnnjax.training import several_heads, train_step
from cnnjax.training.losses import cross_entropy, squared_error
from cnnjax.training.metrics import means

HEADS = several_heads({"species": "cross_entropy", "age": "mse"}, weights={"age": 0.5})


@pytest.mark.slow
def test_a_network_learns_from_all_its_heads(compile_quickly):
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(4, 8, 8, 3)), jnp.float32)
    model = cnnjax.create_model("resnet20", num_classes=10, stage_sizes=(1, 1, 1), features=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(jnp.ones_like, variables["batch_stats"])
    model, variables = finetune.replace_head(model, variables, {"species": 3, "age": 1}, jax.random.key(1))
    batch = {
        "image": images,
        "label_species": jnp.asarray([0, 2, 1, 1]),
        "target_age": jnp.asarray(random.normal(size=(4, 1)), jnp.float32),
        "mask": jnp.asarray([1, 1, 1, 0]),
    }
    state = finetune.train_state(model, variables, optax.sgd(0.05), jax.random.key(0), frozen=["stem"])

    def step(state, batch):
        return train_step(state, batch, loss=HEADS.loss, metrics=HEADS)

    compiled = compile_quickly(step, state, batch)
    before, losses = state, []
    for _ in range(4):
        state, sums = compiled(state, batch)
        losses.append(means(sums, HEADS))
    assert losses[-1]["loss"] < losses[0]["loss"]
    for head in ("head_species", "head_age"):
        assert (before.params[head]["classifier"]["kernel"] != state.params[head]["classifier"]["kernel"]).any()
    assert {"species_accuracy", "age_mse", "age_mae", "gradient_norm"} <= losses[0].keys()


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum_and_counts_real_examples():
    random = np.random.default_rng(1)
    outputs = {"species": jnp.asarray(random.normal(size=(4, 3))), "age": jnp.asarray(random.normal(size=(4, 1)))}
    batch = {"label_species": jnp.asarray([0, 2, 1, 1]), "target_age": jnp.ones((4, 1)), "image": jnp.zeros((4, 1))}
    expected = cross_entropy(outputs["species"], batch["label_species"]) + 0.5 * squared_error(
        outputs["age"], batch["target_age"]
    )
    np.testing.assert_allclose(HEADS.loss(outputs, batch), expected, rtol=1e-6)
    values = HEADS.means(HEADS.sums(outputs, batch, jnp.asarray([True, False, False, False])), 1)
    assert values["species_accuracy"] == float(outputs["species"][0].argmax() == 0)
    np.testing.assert_allclose(values["age_mse"], (outputs["age"][0, 0] - 1) ** 2, rtol=1e-5)
    assert HEADS.sums(outputs, batch, jnp.ones(4, bool)).keys() == HEADS.zeros().keys()


def test_refusals():
    with pytest.raises(ValueError, match="at least one head"):
        several_heads({})
    with pytest.raises(ValueError, match="loss of head 'age' must be one of cross_entropy"):
        several_heads({"age": "l2"})
    with pytest.raises(ValueError, match="weights name a head 'size'; the heads are age"):
        several_heads({"age": "mse"}, weights={"size": 1.0})
    with pytest.raises(ValueError, match="weight of head 'age' must be above 0, got 0"):
        several_heads({"age": "mse"}, weights={"age": 0.0})
    with pytest.raises(ValueError, match="has no head 'age'; its heads are species"):
        HEADS.loss({"species": jnp.zeros((1, 3))}, {"label_species": jnp.zeros(1, jnp.int32)})
    with pytest.raises(ValueError, match="head 'species' learns from 'label_species', got a batch of label"):
        HEADS.loss({"species": jnp.zeros((1, 3))}, {"label": jnp.zeros(1, jnp.int32)})
