import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import Preprocess
from cnnjax.data.augment import Crop, Mirror, parse_all

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), np.uint8)
LABELS = jnp.arange(64)
KEYS = jax.random.split(jax.random.key(1), 64)
PLAIN = (0.0, 0.0, 0.0), (1 / 255,) * 3


def pixels(batch):
    """Return the images of a batch that was normalised with `PLAIN`."""
    return np.asarray(batch["image"]).round().astype(np.uint8)


def test_normalisation():
    preprocess = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (Crop(2), Mirror()))
    expected = (IMAGES / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    batch = preprocess({"image": jnp.asarray(IMAGES), "label": LABELS})
    np.testing.assert_allclose(batch["image"], expected, atol=1e-5)
    assert batch["label"] is LABELS


def test_crops_are_shifts_within_the_padding():
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = set()
    for image, cropped in zip(
        padded, pixels(jax.jit(Preprocess(*PLAIN, (Crop(2),)))({"image": IMAGES}, KEYS)), strict=True
    ):
        fits = [(i, j) for i in range(5) for j in range(5) if (image[i : i + 6, j : j + 6] == cropped).all()]
        assert len(fits) == 1
        shifts.update(fits)
    assert len(shifts) > 15


def test_about_half_of_the_images_are_mirrored():
    mirrored = pixels(jax.jit(Preprocess(*PLAIN, (Mirror(),)))({"image": IMAGES}, KEYS))
    flipped = (mirrored == IMAGES[:, :, ::-1]).all((1, 2, 3))
    kept = (mirrored == IMAGES).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48


@pytest.mark.parametrize("specs", [("crop:2", "mirror"), ("trivialaugment",)])
def test_augmentation_is_a_function_of_each_examples_key(specs, compile_quickly):
    preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, parse_all(specs))
    compiled = compile_quickly(preprocess, {"image": IMAGES}, KEYS)
    whole = compiled({"image": IMAGES}, KEYS)["image"]
    np.testing.assert_array_equal(whole, compiled({"image": IMAGES}, KEYS)["image"])
    np.testing.assert_array_equal(whole[::-1], compiled({"image": IMAGES[::-1].copy()}, KEYS[::-1])["image"])
    assert (whole != compiled({"image": IMAGES}, KEYS[::-1])["image"]).any()
