"""Sums over windows on a CPU: computed once, whoever uses them."""

import re

import jax
import jax.numpy as jnp
import pytest

from cnnjax.nn import Conv, max_pool


def multiplications(function, *arrays):
    return len(re.findall(r" multiply\(", jax.jit(function).lower(*arrays).compile().as_text()))


@pytest.mark.parametrize(("groups", "products"), [(64, 9), (32, 18)], ids=["depthwise", "small groups"])
def test_a_convolution_with_several_users_is_computed_once(groups, products):
    layer, images = Conv(64, (3, 3), feature_group_count=groups, use_bias=False), jnp.ones((2, 8, 8, 64))
    variables = layer.init(jax.random.key(0), images)

    def normalised(variables, images):
        features = layer.apply(variables, images)
        mean = features.mean((0, 1, 2), keepdims=True)
        return jnp.maximum((features - mean) / (features**2).mean((0, 1, 2), keepdims=True), 0) + features

    # Besides those of the convolution, few: squares, and what means and divisions become.
    assert products <= multiplications(normalised, variables, images) <= products + 8


def test_a_maximum_with_several_users_is_taken_once():
    def users(images):
        pooled = max_pool(images, 3, 2, padding=1)
        return pooled - pooled.mean((0, 1, 2), keepdims=True), pooled.transpose(0, 3, 1, 2)

    text = jax.jit(users).lower(jnp.ones((2, 9, 9, 8))).compile().as_text()
    assert len(re.findall(r" maximum\(", text)) == 8
