"""A strided convolution over blocks of pixels is the same convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import first_plain
from jax import lax

import cnnjax
from cnnjax.nn import Conv, space_to_depth_conv


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    first_plain(
        [
            ((7, 7), (2, 2), [(3, 3), (3, 3)]),
            ((3, 5), (2, 4), "SAME"),
            ((4, 4), (4, 4), "VALID"),
            ((1, 2), (2, 1), [(0, 2), (1, 0)]),
        ]
    ),
)
def test_values_and_gradients_are_those_of_the_convolution(window, strides, padding):
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(2, 8, 12, 3)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(*window, 3, 5)), jnp.float32)

    def results(convolve):
        def loss(images, kernel):
            y = convolve(images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            return jnp.sin(y).sum(), y

        (_, y), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(images, kernel)
        return y, *gradients

    for ours, theirs in zip(results(space_to_depth_conv), results(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_network_with_it_has_the_same_variables_and_features(compile_quickly):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    plain = cnnjax.create_model("resnet18", stage_sizes=(1, 1, 1, 1), features=4, num_classes=0)
    blocks = plain.clone(space_to_depth_stem=True)
    variables = compile_quickly(plain.init, jax.random.key(0), images)(jax.random.key(0), images)
    shapes = jax.eval_shape(blocks.init, jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_allclose(blocks.apply(variables, images), plain.apply(variables, images), rtol=1e-4, atol=1e-4)


def test_refusals():
    images = jnp.zeros((1, 9, 8, 3))
    layer = Conv(4, (3, 3), strides=2, conv_general_dilated=space_to_depth_conv)
    with pytest.raises(ValueError, match=r"multiples of the strides \(2, 2\), got \(9, 8\)"):
        layer.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="without dilation and groups"):
        layer.clone(feature_group_count=3, features=3).init(jax.random.key(0), images)
    with pytest.raises(ValueError, match="for the 7x7 stem"):
        jax.eval_shape(cnnjax.create_model("resnet20", space_to_depth_stem=True).init, jax.random.key(0), images)
