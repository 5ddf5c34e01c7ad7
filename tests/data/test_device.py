import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Preprocess, random_crop, random_mirror

IMAGES = jax.random.randint(jax.random.key(0), (64, 6, 6, 3), 0, 256).astype(jnp.uint8)
LABELS = jnp.arange(64)
KEYS = jax.random.split(jax.random.key(1), 64)


def test_normalisation():
    preprocess = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), crop_padding=2, mirror=True)
    expected = (np.asarray(IMAGES) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    batch = preprocess({"image": IMAGES, "label": LABELS})
    np.testing.assert_allclose(batch["image"], expected, atol=1e-5)
    assert batch["label"] is LABELS


def test_crops_are_shifts_within_the_padding():
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = set()
    for image, cropped in zip(padded, np.asarray(random_crop(KEYS, IMAGES, 2)), strict=True):
        fits = [(i, j) for i in range(5) for j in range(5) if (image[i : i + 6, j : j + 6] == cropped).all()]
        assert len(fits) == 1
        shifts.update(fits)
    assert len(shifts) > 15


def test_about_half_of_the_images_are_mirrored():
    mirrored = np.asarray(random_mirror(KEYS, IMAGES))
    flipped = (mirrored == np.asarray(IMAGES)[:, :, ::-1]).all((1, 2, 3))
    kept = (mirrored == np.asarray(IMAGES)).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48


def test_augmentation_is_a_function_of_each_examples_key():
    preprocess = Preprocess((0.5,) * 3, (0.5,) * 3, crop_padding=2, mirror=True)
    whole = preprocess({"image": IMAGES}, KEYS)["image"]
    np.testing.assert_array_equal(whole, preprocess({"image": IMAGES}, KEYS)["image"])
    np.testing.assert_array_equal(whole[16:32], preprocess({"image": IMAGES[16:32]}, KEYS[16:32])["image"])
    assert (whole != preprocess({"image": IMAGES}, KEYS[::-1])["image"]).any()
