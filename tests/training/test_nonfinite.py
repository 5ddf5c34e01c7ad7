"""Steps whose loss or gradient is not finite never reach the state."""

import dataclasses
import io
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cnnjax.training import (
    Checkpoints,
    ClassifierSetup,
    ConfigError,
    Devices,
    TrainConfig,
    TrainingError,
    fit,
    make_schedule,
    train_step,
)
from cnnjax.training.metrics import zero_sums
from cnnjax.training.nonfinite import name_first, nonfinite_paths, skip_nonfinite


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state, state.ema))]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "pmap"])
def test_bad_steps_change_nothing_and_one_too_many_stops_the_state(make_tiny_state, mode):
    devices = Devices.choose(mode)
    good = {"image": np.ones((8, 8, 8, 3), np.float32), "label": np.arange(8, dtype=np.int32)}
    # One image of eight, which one device of several sees.
    bad = good | {"image": good["image"].copy()}
    bad["image"][3, 0, 0] = np.nan
    step = devices.compile_train(skip_nonfinite(train_step, 1))
    start = make_tiny_state(ema=True).replace(nonfinite=jnp.zeros((), jnp.int32))
    state, sums = devices.replicate(start), devices.replicate(zero_sums())

    def take(batch):
        nonlocal state, sums
        state, sums = step(state, sums, devices.shard(batch))
        now = devices.unreplicate(state)
        return leaves(now), int(now.step), int(now.nonfinite), int(devices.unreplicate(sums)["count"])

    first, *counts = take(good)
    assert counts == [1, 0, 8]
    skipped, *counts = take(bad)
    assert counts == [2, 1, 8]
    for before, after in zip(first, skipped, strict=True):
        np.testing.assert_array_equal(before, after)
    trained, *counts = take(good)
    assert counts == [3, 1, 16]
    assert any((a != b).any() for a, b in zip(skipped, trained, strict=True))
    for batch in (bad, good, bad):
        stopped, *counts = take(batch)
        assert counts == [3, 2, 16]
        for before, after in zip(trained, stopped, strict=True):
            np.testing.assert_array_equal(before, after)
    assert np.isfinite(devices.unreplicate(sums)["loss_sum"])


def test_paths_come_in_the_order_of_the_network():
    bad, good = np.array([1, np.nan]), np.ones(2)
    tree = {
        "head": {"kernel": bad},
        "stage10": {"kernel": bad},
        "stage2": {"block1": bad, "block2": good},
        "stem": {"conv1": np.array([np.inf], np.float32)},
    }
    paths = nonfinite_paths(tree)
    assert paths == ["stem/conv1", "stage2/block1", "stage10/kernel", "head/kernel"]
    assert name_first(paths, 5) == "stem/conv1, stage2/block1, stage10/kernel, ... (4 of 5)"
    assert name_first([], 5) == "none"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nonfinite")
    (folder / "data").mkdir()
    return TrainConfig(
        data_dir=folder / "data",
        workdir=folder / "run",
        train_split="train[:179]",
        test_split="test[:50]",
        batch_size=8,
        epochs=1,
        parallel="single",
        log_steps=10,
        checkpoint_steps=5,
    )


def poisoned(steps, *, params_too=False):
    """Return what builds a run whose gradients at some steps are not finite, or, instead, whose parameters overflow."""

    def create(config):
        setup = ClassifierSetup.create(config)
        step = partial(train_step, preprocess=setup.preprocess, metrics=setup.metrics)

        def poison(state, batch, *, axis_name=None):
            is_bad = jnp.isin(state.step + 1, jnp.array(steps))
            factor = jnp.where(is_bad, jnp.inf if params_too else jnp.nan, 1.0).astype(jnp.float32)
            if params_too:
                new, sums = step(state, batch, axis_name=axis_name)
                return new.replace(params=jax.tree.map(lambda leaf: leaf * factor, new.params)), sums
            params = jax.tree.map(lambda leaf: leaf, state.params)
            params["stage2"]["conv1"]["bias"] = params["stage2"]["conv1"]["bias"] * factor
            return step(state.replace(params=params), batch, axis_name=axis_name)

        guarded = skip_nonfinite(poison, config.skip_nonfinite)
        return dataclasses.replace(setup, train=setup.devices.compile_train(guarded))

    return create


@pytest.mark.slow
def test_the_run_stops_with_what_was_wrong_and_the_last_good_checkpoint(config):
    with pytest.raises(TrainingError) as caught:
        fit(config, Console(file=io.StringIO()), poisoned([8]))
    text = str(caught.value)
    assert "the loss is nan at step 8 (learning rate 0.00158, gradient norm nan)." in text
    assert "Gradients that are not finite: stage1/conv1/bias, stage1/conv1/kernel, stage2/conv1/bias, ..." in text
    assert "parameters: none" in text
    assert "--skip-nonfinite" in text
    with Checkpoints(config.run_directory / "checkpoints") as checkpoints:
        assert checkpoints.steps == [5]
        arrays, _ = checkpoints.read(5)
    assert all(np.isfinite(array).all() for array in arrays.values())
    # What was only a hiccup is over when the run goes on.
    result = fit(config, Console(file=io.StringIO()))
    assert result["steps"] == 23


@pytest.mark.slow
def test_a_few_bad_steps_are_tolerated_and_counted_over_interruptions(config, tmp_path):
    config = dataclasses.replace(config, workdir=tmp_path / "run", skip_nonfinite=2)
    with pytest.raises(TrainingError, match="at step 18 .* 3 such steps so far, and --skip-nonfinite allows 2"):
        fit(config, Console(file=io.StringIO()), poisoned([3, 12, 18]))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["nonfinite_steps"]) for record in records] == [(10, 1)]
    assert fit(config, Console(file=io.StringIO()), poisoned([3, 12]))["steps"] == 23
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["nonfinite_steps"]) for record in records] == [(10, 1), (20, 2), (23, 2)]
    # The optimizer has not counted the steps that were left out.
    schedule = make_schedule("cosine", config.learning_rate, 23)
    rates = [float(schedule(step)) for step in (10 - 1 - 1, 20 - 1 - 2, 23 - 1 - 2)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates)


@pytest.mark.slow
def test_parameters_that_overflow_are_not_saved(config, tmp_path):
    """A finite gradient times a huge rate may be infinite, which the next step would notice."""
    config = dataclasses.replace(config, workdir=tmp_path / "run")
    with pytest.raises(TrainingError, match="after step 5, params holds numbers that are not finite: stage1/conv1"):
        fit(config, Console(file=io.StringIO()), poisoned([5], params_too=True))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps == []


def test_impossible_limits_are_refused():
    with pytest.raises(ConfigError, match="skip_nonfinite must be at least 0, got -1"):
        TrainConfig(skip_nonfinite=-1)
