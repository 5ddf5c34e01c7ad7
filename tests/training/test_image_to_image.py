"""Runs of networks that map images to images."""

import dataclasses
import io
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cnnjax.data import Preprocess
from cnnjax.data.augment import parse_all
from cnnjax.data.drawn import DrawnData
from cnnjax.restoration import AddNoise
from cnnjax.training import ConfigError, ImageToImageConfig, ImageToImageSetup, fit, progress
from cnnjax.training.image_to_image import Augmented
from cnnjax.training.metrics import Regression


@pytest.fixture
def batch():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray(images[..., 0].astype(np.int32))}


@pytest.fixture
def keys():
    return jax.random.split(jax.random.key(0), 4)


def test_labels_of_pixels_move_with_their_image(batch, keys):
    hook = Augmented(parse_all(["mirror", "vertical-mirror"]), Preprocess((0.0,), (1.0,)))
    new = hook(batch, keys)
    assert not np.array_equal(new["label"], batch["label"])
    np.testing.assert_allclose(new["image"][..., 0] * 255, new["label"].astype(jnp.float32), atol=1e-3)
    np.testing.assert_array_equal(hook(batch, None)["label"], batch["label"])


def test_what_turns_in_from_outside_counts_nowhere(batch, keys, compile_quickly):
    hook = Augmented(parse_all(["rotate:45"]), Preprocess((0.0,), (1.0,)))
    batch |= {"label": jnp.zeros_like(batch["label"])}
    new = compile_quickly(hook, batch, keys)(batch, keys)
    assert set(np.unique(new["label"])) == {0, -1}


def test_noise_comes_after_augmentation_and_the_target_has_none(batch, keys):
    quiet = Augmented(parse_all(["mirror"]), AddNoise(0.0, 0.0))({"image": batch["image"]}, keys)
    noisy = Augmented(parse_all(["mirror"]), AddNoise(20.0, 20.0))({"image": batch["image"]}, keys)
    np.testing.assert_array_equal(noisy["target"], quiet["target"])
    assert not np.array_equal(quiet["target"] * 255, batch["image"].astype(jnp.float32))
    noise = (noisy["image"] - noisy["target"]).ravel() * 255
    assert 15 < noise.std() < 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ImageToImageConfig):
    model: str = "scale"
    dataset: str = "noise"


class Scale(nn.Module):
    """Images times one number."""

    @nn.compact
    def __call__(self, images, train=False):
        if images.shape[1] % 2:
            raise ValueError("sizes must be even, got odd ones")
        return images * self.param("scale", nn.initializers.zeros, ())


def setup(config, size=4):
    test = np.random.default_rng(1).random((5, size, size, 1), np.float32)
    return ImageToImageSetup.create(
        config,
        model=Scale(),
        pipeline=DrawnData(
            lambda generator: {"image": generator.integers(0, 256, (size, size, 1), np.uint8)},
            {"image": test, "target": test},
        ),
        image_shape=(size, size, 1),
        num_examples=32,
        preprocess=AddNoise(0.0, 0.0),
        loss="mse",
        metrics=Regression(peak=1.0),
        facts={"colour": "grey"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["single", "jit", "pmap"])
def test_a_task_is_learnt_on_any_devices(tmp_path, parallel, monkeypatch):
    # Lines as often as they can be.
    for name in ("LINE_INTERVAL", "LEAST_SECONDS", "ASK_INTERVAL"):
        monkeypatch.setattr(progress, name, 0.0)
    text = io.StringIO()
    config = Config(workdir=tmp_path, epochs=6, batch_size=8, learning_rate=0.1, parallel=parallel, augment=("mirror",))
    result = fit(config, Console(file=text, width=200), setup)
    assert result["steps"] == 24
    lines = re.findall(r"epoch \d/6, step (\d+)/24: \S+ images/s, loss (\S+), \d+ s left", text.getvalue())
    steps = [int(step) for step, _ in lines]
    assert steps
    assert steps == sorted(steps)
    losses = [float(loss) for _, loss in lines]
    assert losses[0] > 0.1, lines
    assert 0 <= losses[-1] < 0.01, lines
    assert result["best_test_loss"] <= result["test_mse"] < 0.01
    assert result["test_psnr"] > 20
    assert '"colour": "grey"' in (tmp_path / "config.json").read_text()


@pytest.mark.slow
def test_a_task_stops_early_tolerates_bad_steps_and_writes_events(tmp_path):
    """What the loop does for every kind of run; the rate is so high that the loss gets no better."""
    config = Config(
        workdir=tmp_path,
        epochs=9,
        batch_size=8,
        learning_rate=1e30,
        optimizer="sgd",
        schedule="constant",
        parallel="single",
        patience=2,
        skip_nonfinite=100,
    )
    result = fit(config, Console(quiet=True), setup)
    assert result["stopped_early"]
    assert result["best_step"] < result["steps"] < 36
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["nonfinite_steps"] <= 100


def test_runs_have_a_folder_of_their_own():
    assert str(Config().run_directory) == "runs/scale-noise"
    assert str(Config(dataset="a/b:1.0").run_directory) == "runs/scale-a-b-1.0"
    assert Config(augment=("mirror",)).to_json()["augment"] == ["mirror"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0 and finite, got 0"),
        ({"warmup_epochs": 10}, r"warmup_epochs must be at least 0 and below epochs \(10\), got 10"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*32 - 1, got -1"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"skip_nonfinite": -1}, "skip_nonfinite must be at least 0, got -1"),
        ({"profile": "3:2"}, "profile must be A:B, steps from 1 with A at most B, got '3:2'"),
        ({"augment": ("mirorr",)}, "unknown augmentation 'mirorr'.*did you mean mirror"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="scale on noise: sizes must be even"):
        setup(Config(parallel="single"), size=3)
    with pytest.raises(ConfigError, match="batch_size must be divisible by the 8 devices, got 12"):
        setup(Config(batch_size=12))
