import jax
import jax.numpy as jnp
import pytest
from families import one_each

import cnnjax

MOBILE = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0", "efficientnet_v2_s")


def last_map(name, size, **fields):
    """Return the shape of the last feature map."""
    model = cnnjax.create_model(name, **fields)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    _, state = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, capture_intermediates=True), images
    )
    stages = sorted(key for key in state["intermediates"] if key.startswith("stage"))
    return state["intermediates"][stages[-1]]["__call__"][0].shape


@pytest.mark.slow
@pytest.mark.parametrize("name", one_each(MOBILE, plain=["mobilenet_v2", "mnasnet0_5"]))
def test_output_stride_keeps_weights_and_refines_the_last_map(name):
    *_, features = last_map(name, 64)
    for output_stride in (8, 16, 32):
        size = 64 // output_stride
        assert last_map(name, 64, output_stride=output_stride) == (1, size, size, features)


def test_blocks_are_dropped_with_a_rate_that_grows_with_depth():
    # Block i of n with i / n of the rate, counted from 0, as all three reference implementations do.
    rates = [block["stochastic_depth_rate"] for block in cnnjax.create_model("efficientnet_b0").blocks()]
    assert len(rates) == 16
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "num_params"),
    # Counted in torchvision.models.mobilenet_v2(width_mult=...) and MNASNet(alpha=...).
    [("mobilenet_v2", 0.5, 1_968_680), ("mobilenet_v2", 1.4, 6_108_776), ("mnasnet1_0", 0.35, 1_788_232)],
)
def test_width_multipliers_round_as_the_reference_does(name, width, num_params):
    model = cnnjax.create_model(name, width_multiplier=width)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == num_params


def test_shufflenet_has_widths_for_the_groups_of_its_table_only():
    with pytest.raises(ValueError, match="groups must be one of 1, 2, 3, 4, 8, got 5"):
        jax.eval_shape(
            cnnjax.create_model("shufflenet_v1_x1_0", groups=5).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
        )
