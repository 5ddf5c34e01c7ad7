"""Augmentations against torchvision's results, which generate_augmentations.py wrote."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data.augment import AutoAugment, Blur, Gamma, Hue, RandAugment, colour, geometry, policy_operations
from cnnjax.data.augment.autoaugment_tables import POLICIES
from cnnjax.data.augment.operation import pixels

REFERENCES = dict(np.load(Path(__file__).with_name("augmentations.npz")))
IMAGES = REFERENCES["images"]
COUNT, HEIGHT, WIDTH, _ = IMAGES.shape


def differences(ours, theirs):
    return np.abs(np.asarray(ours).astype(int) - theirs.astype(int))


def repeated(values):
    """Return the images once for each value, and the values once for each image."""
    values = np.asarray(values, np.float32)
    return jnp.asarray(np.tile(IMAGES, (len(values), 1, 1, 1))), jnp.asarray(np.repeat(values, COUNT, axis=0))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_affine_maps(interpolation, compile_quickly):
    theirs = REFERENCES[f"affine_{interpolation}"]
    images, values = repeated(REFERENCES["affine"])

    def move(images, values):
        names = ("angle", "translate_x", "translate_y", "scale", "shear_x", "shear_y")
        matrices = geometry.affine_matrices(len(images), **dict(zip(names, values.T, strict=True)))
        return geometry.warp({"image": images}, matrices, interpolation, 0.0)["image"]

    wrong = differences(compile_quickly(move, images, values)(images, values), theirs.reshape(images.shape)) > 1
    # Places that lie on the border between two pixels may fall to either.
    assert wrong.mean() < (0.002 if interpolation == "nearest" else 1e-9)


def test_elastic_deformation(compile_quickly):
    field = jnp.asarray(np.repeat(REFERENCES["displacement"], COUNT, axis=0))

    def move(images):
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)[:, None]
        x, y = x + field[..., 0], y + field[..., 1]
        return geometry.warp_from({"image": images}, x, y, "bilinear", 0.0)["image"]

    images = jnp.asarray(IMAGES)
    assert differences(compile_quickly(move, images)(images), REFERENCES["elastic"]).max() <= 1


def test_colour_and_light(compile_quickly):
    images, factors = repeated(REFERENCES["factors"])
    turned, turns = repeated(REFERENCES["turns"])

    def change(images, factors, turned, turns):
        chosen = jnp.ones(len(images), bool)
        x, f = images.astype(jnp.float32), factors.reshape(-1, 1, 1, 1)
        blends = {
            "brightness": colour.Brightness().adjust(x, f, True),
            "contrast": colour.Contrast().adjust(x, f, True),
            "saturation": colour.Saturation().adjust(x, f, True),
            "sharpness": colour.blend(x, colour.smooth(x, True), f),
            "grey": jnp.broadcast_to(colour.luma(x[:COUNT], True), IMAGES.shape),
        }
        results = {name: pixels(values, images.dtype, truncate=True) for name, values in blends.items()}
        results["gamma"] = Gamma.adjust({"image": images}, chosen, factors)["image"]
        results["hue"] = Hue.adjust({"image": turned}, chosen, turns)["image"]
        return results

    arguments = images, factors, turned, turns
    for name, ours in compile_quickly(change, *arguments)(*arguments).items():
        theirs = REFERENCES[name].reshape(ours.shape)
        wrong = differences(ours, theirs)
        assert wrong.max() <= 1, name
        # Truncation takes products that are whole numbers one way or the other; torchvision truncates gamma and hue.
        if name not in ("gamma", "hue"):
            assert (wrong > 0).mean() < 0.03, name


def test_blur(compile_quickly):
    blur = Blur(sigma=1.2, kernel_size=7)
    images = jnp.asarray(IMAGES)
    ours = compile_quickly(
        lambda images: blur.adjust({"image": images}, jnp.ones(COUNT, bool), jnp.full(COUNT, 1.2))["image"], images
    )(images)
    assert differences(ours, REFERENCES["blur"]).max() <= 1


def test_operations_of_policies(compile_quickly):
    numbers = np.array([policy_operations.OPERATIONS.index(name) for name in REFERENCES["names"]])
    images, strengths = repeated(REFERENCES["strengths"])
    numbers = jnp.asarray(np.repeat(numbers, COUNT))

    def change(images, numbers, strengths):
        return policy_operations.apply_operations({"image": images}, numbers, strengths)["image"]

    ours = np.asarray(compile_quickly(change, images, numbers, strengths)(images, numbers, strengths))
    theirs = REFERENCES["operations"]
    for name, one, other in zip(REFERENCES["names"], ours.reshape(theirs.shape), theirs, strict=True):
        wrong = differences(one, other)
        if name in ("ShearX", "ShearY", "Rotate"):
            assert (wrong > 0).mean() < 0.01, name  # Places on the border between two pixels.
        else:
            assert wrong.max() <= 1, name
            # Grey levels on the border between two; sharpness sums nine products, which compilers order as they like.
            assert (wrong > 0).mean() < (0.1 if name == "Sharpness" else 0.04), name


@pytest.mark.parametrize("space", ["auto", "wide", "augmix"])
def test_magnitudes(space):
    prefix = f"magnitudes_{space}_"
    tables = {name.removeprefix(prefix): table for name, table in REFERENCES.items() if name.startswith(prefix)}
    assert len(tables) == 11
    for name, table in tables.items():
        ours = policy_operations.magnitudes(space, len(table), HEIGHT, WIDTH)[policy_operations.OPERATIONS.index(name)]
        np.testing.assert_allclose(ours, table, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_policies(name):
    ours = [[str(part) for part in row] for row in POLICIES[name]]
    assert ours == REFERENCES[f"policy_{name}"].tolist()
    assert AutoAugment(name).policy == name


def test_both_ways_to_count_values_agree(compile_quickly):
    images = jnp.asarray(IMAGES)
    expected = [[np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)] for image in IMAGES]
    for count in (
        policy_operations._histograms_by_addition,
        policy_operations._histograms_by_product,
        policy_operations._histograms,
    ):
        np.testing.assert_array_equal(compile_quickly(count, images)(images), expected)


def test_policies_refuse_images_that_are_normalised():
    images = jnp.zeros((2, 8, 8, 3))
    with pytest.raises(TypeError, match="uint8 images, got float32"):
        RandAugment()({"image": images}, jax.random.split(jax.random.key(0), 2))
