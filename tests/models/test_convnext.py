import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.convnext import ConvNeXt


def build(**fields):
    return ConvNeXt(stage_sizes=(1, 1, 2, 2), features=(8, 16, 24, 32), layer_scale=0.5, **fields)


@pytest.mark.exhaustive
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_network_agrees_with_the_published_one_on_the_coarse_grid(output_stride):
    def last_map(**fields):
        model = build(num_classes=0, **fields)
        variables = model.init(jax.random.key(0), images)
        _, state = model.apply(variables, images, capture_intermediates=True)
        return state["intermediates"]["stage4"]["__call__"][0]

    images = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))
    coarse, fine = last_map(), last_map(output_stride=output_stride)
    step = 32 // output_stride
    assert coarse.shape[1:3] == (2, 3)
    assert fine.shape[1:3] == (2 * step, 3 * step)
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_pixels_beyond_a_multiple_of_4_are_not_seen():
    model = build(num_classes=5)
    images = jax.random.normal(jax.random.key(0), (1, 35, 63, 3))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    apply = jax.jit(model.apply)
    logits = apply(variables, images)
    np.testing.assert_allclose(logits, apply(variables, images[:, :32, :60]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_blocks_start_close_to_the_identity():
    model = ConvNeXt(stage_sizes=(1, 1), features=(8, 16), output_stride=8)
    images = jnp.ones((1, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)
    _, state = model.apply(variables, images, capture_intermediates=True)
    assert variables["params"]["stage1"]["block1"]["layer_scale"].tolist() == [np.float32(1e-6)] * 8
    stem, stage1 = (state["intermediates"][name]["__call__"][0] for name in ("stem", "stage1"))
    np.testing.assert_allclose(stage1, stem, atol=1e-6)
