import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.nn.building import round_width, split_stages

BLOCKS = [{"strides": strides} for strides in (1, 2, 1, 2, 2, 1)]


def test_stages_start_at_strides():
    assert [len(stage) for stage in split_stages(BLOCKS, stem_stride=4)] == [1, 2, 1, 2]
    # A stride in the first block starts no second stage.
    assert [len(stage) for stage in split_stages(BLOCKS[1:], stem_stride=4)] == [2, 1, 2]


def test_dilated_stages_keep_the_resolution():
    *_, third, fourth = split_stages(BLOCKS, output_stride=8, stem_stride=4)
    assert third == [{"strides": 1, "dilation": 1}]
    assert fourth == [{"strides": 1, "dilation": 2}, {"strides": 1, "dilation": 4}]
    *_, third, fourth = split_stages(BLOCKS, output_stride=8, stem_stride=4, dilate_strided_block=True)
    assert third == [{"strides": 1, "dilation": 2}]
    assert fourth == [{"strides": 1, "dilation": 4}] * 2
    assert BLOCKS[0] == {"strides": 1}


def test_widths_never_shrink_by_more_than_a_tenth():
    assert [round_width(width) for width in (3, 11, 12, 33.6, 19.2)] == [8, 16, 16, 32, 24]
    assert round_width(19.2, limit=0) == 16


@pytest.mark.slow
def test_output_stride_sets_the_resolution_of_the_last_stage():
    for output_stride in (8, 16, 32):
        model = cnnjax.create_model("mobilenet_v3_large", output_stride=output_stride)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        _, state = jax.eval_shape(
            lambda x, model=model: model.init_with_output(jax.random.key(0), x, capture_intermediates=True), images
        )
        (last,) = state["intermediates"]["stage5"]["__call__"]
        assert last.shape == (1, 64 // output_stride, 64 // output_stride, 960)
    with pytest.raises(ValueError, match="output_stride must be one of 4, 8, 16, 32, got 5"):
        jax.eval_shape(cnnjax.create_model("mobilenet_v3_large", output_stride=5).init, jax.random.key(0), images)


def test_unknown_padding_rules_are_refused():
    model = cnnjax.create_model("mobilenet_v3_small", padding="VALID")
    with pytest.raises(ValueError, match="padding must be 'symmetric' or 'SAME', got 'VALID'"):
        model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
