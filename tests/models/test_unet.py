import jax
import jax.numpy as jnp
import pytest

import cnnjax


def output_size(size, **fields):
    model = cnnjax.create_model("unet", num_classes=2, **fields)
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, size, size, 1)))[0]).shape[1]


def test_valid_convolutions_give_the_sizes_of_the_paper():
    assert output_size(572) == 388
    assert output_size(188) == 4


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_smallest_size_of_shallower_networks(depth):
    fields = {"features": (8, 16, 32, 64)[:depth]}
    model = cnnjax.create_model("unet", **fields)
    assert output_size(model.min_size, **fields) in (1, 2, 4)
    with pytest.raises(ValueError, match=f"smallest legal size is {model.min_size}x{model.min_size}"):
        output_size(model.min_size - model.size_step, **fields)


def test_sizes_between_legal_ones_are_refused_with_the_rule_and_a_near_one():
    with pytest.raises(ValueError, match="188 plus a multiple of 16, the smallest 188x188.*572x572"):
        output_size(576)
    with pytest.raises(ValueError, match="16 plus a multiple of 16, the smallest 16x16.*560x560"):
        output_size(572, padding="SAME")


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match='padding must be "VALID" or "SAME", got \'same\''):
        output_size(188, padding="same")
