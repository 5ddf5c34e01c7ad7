"""A small run with all that the recipes for CIFAR-10 have, which stops, goes on, and leaves the same bits."""

import dataclasses
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cnnjax.nn import whitening_kernel
from cnnjax.runs import load_run
from cnnjax.training import RECIPES, Checkpoints, ConfigError, TrainConfig, fit
from cnnjax.training.classifier import ClassifierSetup
from cnnjax.training.metrics import zero_sums

SMALL = {
    "dataset": "npz",
    "model_fields": ("widths=[4,6,6]",),
    "parallel": "single",
    "batch_size": 24,
    "epochs": 3,
    "warmup_epochs": 0.5,
    "freeze_from": ("1=stem/conv1/bias",),
    "lookahead": "2,0.8,3",
    "checkpoint_steps": 2,
    "log_steps": 3,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the config of a run of 13 steps, in whose batches epochs begin and end."""
    random = np.random.default_rng(0)
    arrays = {
        f"{split}_{name}": array
        for split, count in (("train", 100), ("test", 30))
        for name, array in (
            ("images", random.integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)),
            ("labels", np.arange(count) % 4),
        )
    }
    folder = tmp_path_factory.mktemp("airbench")
    np.savez(folder / "images.npz", **arrays)
    recipe = RECIPES["cifar10-94"].config
    return dataclasses.replace(recipe, data_dir=folder / "images.npz", workdir=folder / "whole", **SMALL)


def run(config):
    return fit(config, Console(file=io.StringIO(), width=200))


def arrays(workdir, which=-1):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.read(checkpoints.steps[which])[0]


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 7])
def test_it_goes_on_to_the_same_bits_before_and_after_the_stem_is_frozen(config, tmp_path, monkeypatch, step):
    result = run(config)
    assert result["steps"] == 13
    assert 0 <= result["test_tta_accuracy"] <= 1
    assert result["test_tta_loss"] != result["test_loss"]
    assert "test_raw_accuracy" not in result
    whole = arrays(config.workdir)

    # What is frozen whitens, bit for bit, and what is tested is the slow weights.
    setup = ClassifierSetup.create(config)
    start = setup.initial_state()
    images = setup.preprocess({"image": jnp.asarray(setup.pipeline.train.read(np.arange(100))[0])})["image"]
    expected = whitening_kernel(images, (2, 2), 24)
    for name in ("params", "ema/params"):
        np.testing.assert_array_equal(whole[f"{name}/stem/conv1/kernel"], expected)
    assert np.any(whole["params/stem/conv1/bias"])
    assert np.any(whole["params/stage1/conv2/kernel"] != whole["ema/params/stage1/conv2/kernel"])
    np.testing.assert_array_equal(
        load_run(config.workdir, "last").variables["params"]["stage1"]["conv2"]["kernel"],
        whole["ema/params/stage1/conv2/kernel"],
    )
    assert start.frozen == {"params/stem/conv1/kernel"}

    other = dataclasses.replace(config, workdir=tmp_path / "other")
    save = Checkpoints.save

    def failing(self, number, *args, **kwargs):
        if number > step:
            raise KeyboardInterrupt
        save(self, number, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", failing)
        with pytest.raises(KeyboardInterrupt):
            run(other)
    again = run(other)
    assert again["test_tta_loss"] == result["test_tta_loss"]
    found = arrays(other.workdir)
    assert found.keys() == whole.keys()
    for path in whole:
        np.testing.assert_array_equal(found[path], whole[path], err_msg=path)


def test_what_the_parts_cannot_do_is_refused(config):
    for changes, message in (
        ({"model": "resnet20", "freeze_from": (), "frozen": (), "model_fields": ()}, None),
        ({"model": "nin_cifar10", "model_fields": ()}, "even number of at most 150 filters"),
        ({"model": "mlp", "model_fields": (), "image_size": 28}, "first layer is a convolution, got mlp"),
    ):
        alone = {"learning_rate_scale": (), "weight_decay_scale": (), "freeze_from": (), "frozen": ()}
        changed = dataclasses.replace(config, **(alone | changes))
        if message is None:
            kernel = ClassifierSetup.create(changed).initial_state().params["stem"]["conv1"]["kernel"]
            np.testing.assert_array_equal(kernel[..., :8], -kernel[..., 8:])
            continue
        with pytest.raises(ConfigError, match=message):
            ClassifierSetup.create(changed)


def test_runs_are_made_longer_only_where_the_steps_stay_the_same():
    for lookahead, expected in (("5,0.5,0", True), ("5,0.5,1", False)):
        config = TrainConfig(schedule="constant", lookahead=lookahead, epochs=3)
        assert config.lengthens(dataclasses.replace(config, epochs=2).to_json()) == expected


@pytest.mark.slow
def test_turns_reach_the_step_from_wherever_the_images_are(config):
    """The same bits with images on the device, several steps a call; the same to rounding on eight devices."""
    found = []
    for changes in ({}, {"data_on_device": "yes", "steps_per_dispatch": 2}, {"parallel": "jit"}):
        setup = ClassifierSetup.create(dataclasses.replace(config, **changes))
        state, sums = (setup.devices.replicate(tree) for tree in (setup.initial_state(), zero_sums(setup.metrics)))
        batches = list(itertools.islice(setup.pipeline.train_batches(24, 13, seed=1), 2))
        assert {batch["turn"].shape for batch in batches} == {(24,)}
        if setup.train_stacked is not None:
            state, sums = setup.train_stacked(state, sums, batches)
        else:
            for batch in batches:
                state, sums = setup.train(state, sums, setup.devices.shard(batch))
        found.append(jax.device_get((state.params, sums["loss_sum"])))
    host, resident, eight = found
    jax.tree.map(np.testing.assert_array_equal, host, resident)
    np.testing.assert_allclose(eight[1], host[1], rtol=1e-4)
