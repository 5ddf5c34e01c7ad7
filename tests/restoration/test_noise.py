"""Noise, and what it does to the quality of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.restoration import FILTERS, AddNoise, add_noise, best_strength, psnr, ssim
from cnnjax.restoration import filters as filters_module


@pytest.fixture(scope="module")
def clean():
    return {"image": jnp.full((4, 100, 100, 1), 100, jnp.uint8)}


def test_noise_has_the_level_asked_for_and_the_clean_image_is_the_target(clean):
    keys = jax.random.split(jax.random.key(0), 4)
    batch = AddNoise(25.0, 25.0)(clean, keys)
    noisy = np.asarray(batch["image"])
    assert abs(noisy.mean() - 100 / 255) < 0.005
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)) * 255, 25, atol=1)
    np.testing.assert_allclose(batch["target"], 100 / 255, rtol=1e-6)
    blind = np.asarray(AddNoise(0.0, 55.0)(clean, keys)["image"])
    assert np.ptp(blind.std(axis=(1, 2, 3)) * 255) > 5


def test_an_image_has_its_noise_by_its_key_alone(clean):
    keys = jax.random.split(jax.random.key(0), 4)
    noise = AddNoise(0.0, 55.0)
    whole = noise(clean, keys)["image"]
    np.testing.assert_allclose(noise({"image": clean["image"][2:]}, keys[2:])["image"], whole[2:], atol=1e-6)


def test_what_has_a_target_stays_as_it_is(clean):
    batch = {"image": clean["image"], "target": clean["image"]}
    assert AddNoise(25.0, 25.0)(batch)["image"] is batch["image"]


def test_no_noise_needs_no_keys(clean):
    batch = AddNoise(0.0, 0.0)(clean)
    assert batch["image"] is batch["target"]
    with pytest.raises(ValueError, match="need keys to draw noise"):
        AddNoise(0.0, 1.0)(clean)


@pytest.mark.parametrize("levels", [(-1.0, 5.0), (5.0, 1.0), (0.0, float("inf"))])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match="noise must be at least 0 and finite, got a range of"):
        AddNoise(*levels)


def test_noise_on_the_host():
    image = np.full((2, 200, 100, 1), 0.5, np.float32)
    noisy = add_noise(image, np.array([10, 50]).reshape(2, 1, 1, 1), 3)
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)) * 255, [10, 50], rtol=0.05)
    np.testing.assert_array_equal(noisy, add_noise(image, np.array([10, 50]).reshape(2, 1, 1, 1), 3))
    np.testing.assert_array_equal(add_noise(image, 0, 3), image)
    with pytest.raises(ValueError, match="noise must be at least 0 and finite, got -1"):
        add_noise(image, -1, 3)


def test_psnr():
    clean = np.zeros((4, 4, 1), np.float32)
    assert psnr(clean + 0.1, clean) == pytest.approx(20)
    assert psnr(clean, clean) == float("inf")
    with pytest.raises(ValueError, match=r"one shape, got \(4, 4, 1\) and \(4, 4\)"):
        psnr(clean, clean[..., 0])


def test_the_strength_is_the_best_of_those_tried(monkeypatch):
    shade = filters_module.Filter(lambda image, noise, strength: image + np.float32(strength), (0.3, -0.1, 0.2))
    monkeypatch.setattr(filters_module, "FILTERS", {"shade": shade})
    clean = {"a": np.full((3, 3, 1), 0.5, np.float32)}
    strength, results = best_strength("shade", {"a": clean["a"] + np.float32(0.1)}, clean, 0.1)
    assert strength == -0.1
    np.testing.assert_allclose(results["a"], clean["a"], rtol=1e-6)


@pytest.mark.pretrained
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_take_noise_away(name, channels):
    across = np.linspace(0.2, 0.8, 64, dtype=np.float32)
    clean = np.repeat((across[:, None] * across)[..., None], channels, -1)
    noisy = add_noise(clean, 25, 0)
    _, results = best_strength(name, {"ramp": noisy}, {"ramp": clean}, 25 / 255)
    assert results["ramp"].shape == clean.shape
    assert psnr(results["ramp"], clean) > psnr(noisy, clean) + 5
    assert ssim(results["ramp"].astype(np.float32), clean) > ssim(noisy, clean)
    assert ssim(clean, clean) == pytest.approx(1)
