"""Labels over images, and images side by side."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.visualize import draw_panels, overlay
from cnnjax.visualize.overlay import COLOURS


def test_only_labelled_pixels_are_tinted():
    image = np.full((2, 3, 1), 100, np.uint8)
    labels = np.array([[0, 1, 2], [-1, 11, 0]])
    drawn = overlay(image, labels, strength=1.0)
    assert drawn.shape == (2, 3, 3)
    assert (drawn[labels <= 0] == 100).all()
    np.testing.assert_array_equal(drawn[0, 1], COLOURS[0])
    np.testing.assert_array_equal(drawn[0, 2], COLOURS[1])
    np.testing.assert_array_equal(drawn[1, 1], COLOURS[0])
    half = overlay(image, labels, strength=0.5)
    np.testing.assert_array_equal(half[0, 1], np.round((100 + COLOURS[0]) / 2))


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"one size, got \(2, 3\) and \(3, 2\)"):
        overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2), int))


def test_panels_show_every_image(tmp_path):
    white, black = np.full((20, 20, 1), 255, np.uint8), np.zeros((20, 20, 3), np.float32)
    draw_panels([[("a", white), ("b", black)], [("c", black + 2)]], "title", tmp_path / "panels.png", size=1.0)
    with Image.open(tmp_path / "panels.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    middle = pixels[:, : pixels.shape[1] // 2]
    # The black image is right of the middle, and nothing else is that large and dark.
    assert (pixels[:, pixels.shape[1] // 2 :] < 10).sum() > 2000
    assert (middle < 10).sum() < 1500


def test_rows_of_low_images_are_low(tmp_path):
    heights = []
    for height in (20, 10):
        draw_panels([[("a", np.zeros((height, 20, 1)))]] * 2, "", tmp_path / "panels.png", size=2.0)
        with Image.open(tmp_path / "panels.png") as picture:
            heights.append(picture.height)
    # Two rows, each lower by half of the width of a panel; beside them are a title's and the labels' room.
    assert heights[1] < 0.65 * heights[0]
