import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.models.regnet import RegNet, stage_shapes


def test_stages_are_those_of_the_papers_figures():
    model = cnnjax.create_model("regnet_y_8gf")
    assert stage_shapes(model.depth, model.w_0, model.w_a, model.w_m, model.group_width) == (
        (2, 224),
        (4, 448),
        (10, 896),
        (1, 2016),
    )
    # Widths that the groups do not divide move to the nearest that they do.
    assert stage_shapes(depth=23, w_0=80, w_a=49.56, w_m=2.88, group_width=120) == (
        (2, 80),
        (5, 240),
        (15, 720),
        (1, 1920),
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_network_agrees_with_the_published_one_on_the_coarse_grid(output_stride):
    def last_map(**fields):
        model = RegNet(depth=7, w_0=8, w_a=8.0, w_m=2.0, group_width=4, num_classes=0, **fields)
        variables = model.init(jax.random.key(0), images)
        _, state = model.apply(variables, images, capture_intermediates=True)
        return state["intermediates"]["stage4"]["__call__"][0]

    images = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))
    coarse, fine = last_map(), last_map(output_stride=output_stride)
    step = 32 // output_stride
    assert coarse.shape[1:3] == (2, 3)
    assert fine.shape[1:3] == (2 * step, 3 * step)
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, rtol=1e-5, atol=1e-6)
