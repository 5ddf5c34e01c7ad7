"""How good maps are, against closed forms on a linear network and values worked out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import cnnjax
from cnnjax import explain
from cnnjax.explain.randomization import _rank_correlation


class Linear(nn.Module):
    """One score, linear in the pixels."""

    @nn.compact
    def __call__(self, x):
        weights = self.param("weights", nn.initializers.normal(1.0), x.shape[1:])
        return (x * weights[None]).sum((1, 2, 3))[:, None]


class Two(nn.Module):
    """A convolution and a dense layer over the mean."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(cnnjax.nn.Conv(3, (3, 3), name="conv")(x))
        return nn.Dense(3, name="dense")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 6, 6, 2))


@pytest.fixture(scope="module")
def linear(images):
    variables = Linear().init(jax.random.key(0), images)
    return Linear(), variables, images


def first(outputs):
    return outputs[:, 0]


@pytest.mark.slow
def test_deletion_and_insertion_by_hand():
    # Four pixels of worth 4, 3, 2, 1; the score is their sum.
    images = jnp.asarray([4.0, 1, 3, 2]).reshape(1, 2, 2, 1)
    variables = {"params": {"weights": jnp.ones((2, 2, 1))}}
    best, worst = images, -images
    removed = explain.deletion(Linear(), variables, images, best, first, steps=4, batch_size=3)
    np.testing.assert_array_equal(removed.fractions, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(removed.scores, [[10, 6, 3, 1, 0]])
    np.testing.assert_allclose(removed.area, [(10 / 2 + 6 + 3 + 1) / 4])
    put_in = explain.insertion(Linear(), variables, images, best[..., 0], first, baseline=1.0, steps=2)
    np.testing.assert_array_equal(put_in.scores, [[4, 9, 10]])
    np.testing.assert_allclose(put_in.area, [(4 / 2 + 9 + 10 / 2) / 2])
    bad = explain.deletion(Linear(), variables, images, worst, first, steps=4)
    np.testing.assert_array_equal(bad.scores, [[10, 9, 7, 4, 0]])
    # A class is scored by its probability, and portions that do not divide the pixels count as many as they hold.
    odd = explain.deletion(Linear(), variables, images, best, 0, steps=3)
    np.testing.assert_array_equal(odd.fractions, [0, 0.25, 0.75, 1])
    np.testing.assert_array_equal(odd.scores, [[1, 1, 1, 1]])


@pytest.mark.slow
def test_insertion_starts_from_a_blurred_copy(linear):
    model, variables, _ = linear
    flat = jnp.full((1, 6, 6, 2), 0.7)
    found = explain.insertion(model, variables, flat, flat, first, steps=2, blur=1.0)
    np.testing.assert_allclose(found.scores, np.full((1, 3), found.scores[0, -1]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "multiplied", "normalize"), [("noise", False, True), ("square", True, False)])
def test_infidelity_of_a_linear_network(linear, kind, multiplied, normalize):
    model, variables, images = linear
    gradient = explain.saliency(model, variables, images)
    perfect = gradient * images if multiplied else gradient
    measure = jax.jit(
        lambda maps: explain.infidelity(
            model, variables, images, maps, kind=kind, multiplied=multiplied, normalize=normalize, samples=20
        )
    )
    np.testing.assert_allclose(measure(perfect), 0, atol=1e-9)
    changes = measure(0 * perfect)
    assert (changes > 1e-3).all()
    # What half of a map misses is half of the change, unless it is scaled.
    np.testing.assert_allclose(measure(0.5 * perfect), 0 if normalize else changes / 4, rtol=1e-3, atol=1e-9)


def test_infidelity_of_noise_has_its_expectation(linear):
    model, variables, images = linear
    gradient = explain.saliency(model, variables, images)
    wrong = gradient + 1
    spread = 0.15 * (images.max((1, 2, 3)) - images.min((1, 2, 3)))
    found = explain.infidelity(model, variables, images, wrong, samples=3000, batch_size=500)
    # The sum of 72 independent errors of that deviation.
    np.testing.assert_allclose(found, 72 * spread**2, rtol=0.1)


@pytest.mark.slow
def test_sensitivity(linear):
    model, variables, images = linear
    np.testing.assert_allclose(explain.sensitivity(explain.saliency, model, variables, images), 0, atol=1e-6)
    # Weights times d, relative to weights times x, with d of up to 0.1.
    one = jnp.ones((1, 6, 6, 2))
    found = float(explain.sensitivity(explain.input_x_gradient, model, variables, one, radius=0.1, samples=20)[0])
    assert 0.05 < found < 0.1
    with pytest.raises(ValueError, match="give a target with layer='conv'"):
        explain.sensitivity(explain.grad_cam, model, variables, images, layer="conv")
    # A map that is zero, and stays so.
    zero = {"params": {"weights": jnp.zeros((6, 6, 2))}}
    np.testing.assert_array_equal(explain.sensitivity(explain.saliency, model, zero, images), 0)


@pytest.mark.slow
def test_randomization_goes_from_the_top_down(images):
    model = Two()
    variables = model.init(jax.random.key(0), images)
    found = explain.randomization(explain.saliency, model, variables, images, key=jax.random.key(7))
    assert found.layers == ("dense", "conv")
    drawn = model.init(jax.random.key(7), images)
    top = model.apply(variables, images).argmax(-1)
    half = {"params": {"conv": variables["params"]["conv"], "dense": drawn["params"]["dense"]}}
    before = explain.saliency(model, variables, images, top)
    for row, changed in enumerate((half, drawn)):
        after = explain.saliency(model, changed, images, top)
        for image in range(2):
            one, other = np.ravel(before[image]), np.ravel(after[image])
            np.testing.assert_allclose(
                found.correlation[row, image], scipy.stats.spearmanr(one, other).statistic, atol=1e-4
            )
            np.testing.assert_allclose(
                found.absolute[row, image], scipy.stats.spearmanr(abs(one), abs(other)).statistic, atol=1e-4
            )
    assert (abs(found.correlation[-1]) < 0.7).all()
    # An edge detector, which does not look at the network, stays as it is.
    edges = explain.randomization(lambda model, variables, x, target: jnp.diff(x, axis=1), model, variables, images)
    np.testing.assert_allclose(edges.correlation, 1, atol=1e-5)
    named = explain.randomization(explain.saliency, model, variables, images, layers=["conv"], key=jax.random.key(7))
    assert named.layers == ("conv",)
    with pytest.raises(ValueError, match="no parameters at 'stem'"):
        explain.randomization(explain.saliency, model, variables, images, layers=["stem"])


def test_equal_values_share_their_rank():
    one, other = np.array([[0.0, 0, 0, 2, 1, 2]]), np.array([[3.0, 1, 1, 0, 5, 5]])
    expected = scipy.stats.spearmanr(one[0], other[0]).statistic
    np.testing.assert_allclose(_rank_correlation(jnp.asarray(one), jnp.asarray(other)), [expected], rtol=1e-5)
    assert np.isnan(_rank_correlation(jnp.ones((1, 4)), jnp.asarray([[1.0, 2, 3, 4]])))[0]


def test_what_makes_no_sense_is_refused(linear):
    model, variables, images = linear
    maps = images
    for message, call in (
        ("images' size", lambda: explain.deletion(model, variables, images, maps[:, :3])),
        ("maps must be finite", lambda: explain.deletion(model, variables, images, maps * jnp.nan)),
        ("steps must be", lambda: explain.deletion(model, variables, images, maps, steps=0)),
        ("baseline must be", lambda: explain.deletion(model, variables, images, maps, baseline=jnp.ones(2))),
        ("blur must be", lambda: explain.insertion(model, variables, images, maps, blur=0)),
        ("kind must be", lambda: explain.infidelity(model, variables, images, maps, kind="salt")),
        ("window must be at most", lambda: explain.infidelity(model, variables, images, maps, window=7)),
        ("radius must be", lambda: explain.sensitivity(explain.saliency, model, variables, images, radius=0.0)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_drawn_weights_are_known_where_they_can_be(linear, images):
    model = Two()
    drawn = model.init(jax.random.key(0), images)
    assert explain.looks_untrained(drawn)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, drawn)
    assert not explain.looks_untrained(moved)
    # No bias to tell by.
    assert not explain.looks_untrained(linear[1])
