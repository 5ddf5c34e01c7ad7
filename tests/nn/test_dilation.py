import pytest

from cnnjax.nn.building import dilate_stages


def test_strides_beyond_the_output_stride_become_dilation():
    assert dilate_stages((1, 2, 2, 2), 32, stem_stride=4) == ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1))
    assert dilate_stages((1, 2, 2, 2), 16, stem_stride=4) == ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2))
    assert dilate_stages((2, 2, 2, 2), 8, stem_stride=2) == ((2, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))


def test_impossible_output_strides_are_refused():
    with pytest.raises(ValueError, match="output_stride must be one of 8, 16, 32, got 12"):
        dilate_stages((1, 2, 2, 2), 12, stem_stride=4)
