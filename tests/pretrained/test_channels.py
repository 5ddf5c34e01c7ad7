"""Three-channel weights in networks for images of one, two, four and more channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from file_weights import FIELDS, NAME, draw

import cnnjax
from cnnjax.pretrained import adapt_format, adapt_kernel, from_state_dict, reference_shapes, to_state_dict

TINY = {"num_classes": 10, **FIELDS}


def timms_rule(kernel, channels):
    """As timm writes it, for kernels [out, in, height, width]."""
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeat = -(-channels // 3)
    return np.tile(kernel, (1, repeat, 1, 1))[:, :channels] * np.float32(3 / channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_first_kernel_follows_timms_rule(channels):
    state = draw(reference_shapes(NAME, source="torch", **TINY))
    variables = from_state_dict(NAME, state, source="torch", channels=channels, **TINY)
    back = to_state_dict(NAME, variables, source="torch", **FIELDS)
    expected = timms_rule(state["stem.conv1.weight"], channels)
    np.testing.assert_allclose(back["stem.conv1.weight"], expected, rtol=1e-6)
    rest = state.keys() - {"stem.conv1.weight"}
    assert all((back[name] == state[name]).all() for name in rest)
    shapes = jax.eval_shape(
        cnnjax.create_model(NAME, **TINY).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, channels), "float32")
    )
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)


def test_images_are_checked_against_the_channels(compile_quickly):
    state = draw(reference_shapes(NAME, source="torch", **TINY))
    model = cnnjax.create_model(NAME, **TINY)
    variables = from_state_dict(NAME, state, source="torch", channels=1, **TINY)
    with pytest.raises(ValueError, match="the kernel takes 1 input channels, got an input of shape .1, 8, 8, 3."):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 8, 8, 3)))
    for channels in (1, 2, 3, 4):
        with pytest.raises(ValueError, match="looks like channels first"):
            jax.eval_shape(model.apply, variables, jnp.zeros((1, channels, 8, 8)))
    # A grey image gives what it gives in three channels.
    grey = jnp.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 1)), jnp.float32)
    coloured = from_state_dict(NAME, state, source="torch", **TINY)
    three = jnp.concatenate([grey] * 3, -1)
    run = compile_quickly(lambda a, x, b, y: (model.apply(a, x), model.apply(b, y)), variables, grey, coloured, three)
    np.testing.assert_allclose(*run(variables, grey, coloured, three), rtol=1e-4)


def test_weights_of_other_numbers_are_adapted_too():
    kernel = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    np.testing.assert_array_equal(adapt_kernel(kernel, 4).sum(axis=2, keepdims=True), kernel)
    state = draw(reference_shapes(NAME, source="torch", **TINY))
    state["stem.conv1.weight"] = state["stem.conv1.weight"][:, :1]
    variables = from_state_dict(NAME, state, source="torch", channels=3, **TINY)
    assert variables["params"]["stem"]["conv1"]["kernel"].shape[2] == 3


def test_networks_whose_outputs_are_images_keep_their_channels():
    state = draw(reference_shapes("dncnn17_grey", source="torch"))
    with pytest.raises(
        ValueError, match="dncnn17_grey cannot take its weights for 1 channels with 3: the shape of head"
    ):
        from_state_dict("dncnn17_grey", state, source="torch", channels=3)
    assert from_state_dict("dncnn17_grey", state, source="torch", channels=1).keys() == {"params", "batch_stats"}


def test_images_are_normalised_alike():
    expected = cnnjax.weights_info("torchvision://resnet50/IMAGENET1K_V2").images
    assert adapt_format(expected, 5).mean == (0.485, 0.456, 0.406, 0.485, 0.456)
    assert adapt_format(expected, 1).mean == pytest.approx((0.449,))
    assert adapt_format(expected, 2).std == (0.229, 0.224)
