"""What augmentations draw, whatever JAX's types are, and what becomes of examples without a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data.augment import OPERATIONS, augment, parse
from cnnjax.data.augment.operation import normals, uniforms
from cnnjax.nn import StochasticDepth
from cnnjax.restoration.noise import AddNoise


def keys_of(count):
    return jax.random.split(jax.random.key(7), count)


def batch_of(**changes):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    batch = {"image": images, "label": np.arange(4, dtype=np.int32), "foreground": images[..., 0] > 100}
    return {name: jnp.asarray(array) for name, array in (batch | changes).items()}


def types_of(jaxpr):
    """Yield the types of all values of a traced program."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.dtype for variable in equation.outvars if hasattr(variable.aval, "dtype"))
        for held in equation.params.values():
            for each in held if isinstance(held, tuple | list) else [held]:
                if hasattr(inner := getattr(each, "jaxpr", each), "eqns"):
                    yield from types_of(inner)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_is_drawn_or_computed_in_float64(name):
    operation = parse(name, num_classes=4)
    batch = batch_of()
    if "background" not in name:
        del batch["foreground"]
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(lambda batch, keys: augment(batch, keys, (operation,)))(batch, keys_of(4))
    assert jnp.float64 not in set(types_of(traced.jaxpr))


def test_the_same_is_drawn_where_float64_is_allowed():
    layer, noise = StochasticDepth(0.5), AddNoise(0, 50)
    images = jnp.ones((64, 1, 1, 1), jnp.float32)

    def draws():
        kept = layer.apply({}, images, train=True, rngs={"dropout": jax.random.key(3)})
        noisy = noise({"image": jnp.zeros((2, 3, 3, 1), jnp.uint8)}, keys_of(2))["image"]
        return uniforms(keys_of(3), 5), normals(keys_of(3), 5), kept, noisy

    expected = draws()
    with jax.enable_x64(True):
        found = draws()
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spec", ["mixup:0.2", "cutmix:1", "mixup-or-cutmix:0.2,1"])
def test_examples_without_a_label_stay_alone_and_without_one(spec):
    labels = jnp.asarray([-1, 2, 3, 0], jnp.int32)
    batch = batch_of(label=labels)
    del batch["foreground"]
    mixed = augment(batch, keys_of(4), (parse(spec, num_classes=4),))
    np.testing.assert_array_equal(mixed["label"][:2], [[-1, -1, -1, -1], [0, 0, 1, 0]])
    np.testing.assert_allclose(mixed["label"][2:].sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(mixed["image"][:2], batch["image"][:2])
    # Mixed again, they are what they were.
    again = augment(mixed, keys_of(4), (parse(spec, num_classes=4),))
    np.testing.assert_array_equal(again["label"][:2], mixed["label"][:2])


def test_labels_that_no_class_has_show_after_mixing():
    batch = batch_of(label=jnp.asarray([0, 1, 4, 2], jnp.int32))
    del batch["foreground"]
    mixed = augment(batch, keys_of(4), (parse("mixup:0.2", num_classes=4),))
    np.testing.assert_array_equal(np.isnan(mixed["label"]).any(1), [False, False, True, True])
