"""Denoising in tiles."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.models import create_model
from cnnjax.restoration import Denoiser
from cnnjax.restoration.tiles import tiles


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 25))
def test_tiles_cover_every_pixel_once_and_see_enough(length, tile, margin):
    found = tiles(length, tile, margin)
    covered = np.zeros(length, int)
    for each in found:
        covered[each.place] += 1
        size = each.window.stop - each.window.start
        assert size == min(tile + 2 * margin, length)
        assert 0 <= each.window.start <= each.window.stop <= length
        assert each.place.start - each.window.start == each.kept.start
        assert each.place.stop - each.place.start == each.kept.stop - each.kept.start
        assert each.window.start == 0 or each.kept.start >= margin
        assert each.window.stop == length or size - each.kept.stop >= margin
    assert (covered == 1).all()


@pytest.fixture(scope="module")
def variables():
    """Return weights of a grey DnCNN, drawn with NumPy, and statistics as if it were trained."""
    shapes = jax.eval_shape(create_model("dncnn17_grey").init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return generator.normal(size=leaf.shape).astype(np.float32) * np.float32(scale)
        return np.full(leaf.shape, 1 if name in ("scale", "var") else 0, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.slow
def test_tiles_leave_no_seams(variables):
    image = np.random.default_rng(0).normal(0.5, 0.3, (75, 61, 1)).astype(np.float32)
    whole = Denoiser("dncnn17_grey", variables, tile=1000)(image)
    tiled = Denoiser("dncnn17_grey", variables, tile=24)(image)
    assert np.abs(whole - image).max() > 0.01
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_images_of_other_channels_are_refused_and_done_one_by_one(variables):
    denoiser = Denoiser("dncnn17_grey", variables)
    colour = np.random.default_rng(0).normal(0.5, 0.3, (9, 8, 3)).astype(np.float32)
    for image in (colour, colour[..., 0], colour[:0, :, :1]):
        with pytest.raises(ValueError, match="takes images of 1 channels, got shape"):
            denoiser(image)
    each = denoiser.each_channel(colour)
    np.testing.assert_array_equal(each[..., 1:2], denoiser(colour[..., 1:2]))
    with pytest.raises(ValueError, match=r"takes images of 3 channels, got shape \(9, 8, 1\); take a grey network"):
        Denoiser("dncnn17_colour", {})(colour[..., :1])


def test_other_networks_and_empty_tiles_are_refused():
    with pytest.raises(ValueError, match="model must be a DnCNN .* got 'resnet18'"):
        Denoiser("resnet18", {})
    with pytest.raises(ValueError, match="tile must be at least 1, got 0"):
        Denoiser("dncnn17_grey", {}, tile=0)
