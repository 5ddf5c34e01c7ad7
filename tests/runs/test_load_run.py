"""Runs of ours, read whole. ``data/run`` was written by the first version, before files had a format number."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax.data import DataPipeline, load_dataset
from cnnjax.runs import WeightsFileError
from cnnjax.training import Checkpoints

RUN = Path(__file__).parents[1] / "pretrained" / "data" / "run"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(RUN, tmp_path / "run")


@pytest.mark.slow
def test_an_old_run_is_what_it_was(tmp_path):
    """Its network, weights, normalisation and classes together give the test accuracy that it noted."""
    run = cnnjax.load_run(RUN)
    assert (run.step, run.config["model"], run.label_names) == (3, "lenet5", tuple("0123456789"))
    assert run.preprocessing.size == (28, 28)
    (tmp_path / "data").mkdir()
    test = DataPipeline.create(load_dataset("digits", tmp_path / "data"), run.preprocessing.size[0]).test
    images, labels = test.read(np.arange(len(test)))
    log_p = np.asarray(jax.nn.log_softmax(run.logits(np.stack(images))))
    result = json.loads((RUN / "result.json").read_text())
    assert (log_p.argmax(1) == labels).mean() == pytest.approx(result["test_accuracy"])
    assert -log_p[np.arange(len(labels)), labels].mean() == pytest.approx(result["test_loss"], rel=1e-5)


def test_which_checkpoint(run):
    assert cnnjax.load_run(run, 3).step == cnnjax.load_run(run, "last").step == 3
    description = run / "checkpoints" / "3" / "run" / "metadata"
    text = json.loads(description.read_text())
    shutil.copytree(run / "checkpoints" / "3", run / "checkpoints" / "12")
    # The description has no checksum of its own here.
    description = run / "checkpoints" / "12" / "run" / "metadata"
    assert cnnjax.load_run(run).step == 3
    assert cnnjax.load_run(run, "last").step == 12
    description.write_text(json.dumps(text | {"run": text["run"] | {"best_step": None}}))
    with pytest.raises(WeightsFileError, match="was not tested yet, so no checkpoint is its best; take the last one"):
        cnnjax.load_run(run)
    with pytest.raises(WeightsFileError, match=r"no checkpoint of step 7 \(7 was asked for\); there are \[3, 12\]"):
        cnnjax.load_run(run, 7)
    with pytest.raises(ValueError, match="which must be 'best', 'last' or a step, got 'newest'"):
        cnnjax.load_run(run, "newest")


def test_folders_that_are_no_runs_and_damage_are_named(run, tmp_path):
    with pytest.raises(WeightsFileError, match="is not a run: it has no config.json"):
        cnnjax.load_run(tmp_path)
    for file in (run / "checkpoints").rglob("d/*"):
        file.write_bytes(b"")
    with pytest.raises(WeightsFileError, match="checkpoint .*3 is damaged"):
        cnnjax.load_run(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(WeightsFileError, match="holds no checkpoint"):
        cnnjax.load_run(run)


@pytest.mark.parametrize("file", ["config.json", "checkpoints/3/run/metadata"])
def test_what_a_newer_version_wrote_is_refused_with_what_to_do(run, file):
    text = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps(text | {"format": 99}))
    with pytest.raises(WeightsFileError, match="has format 99, .* reads formats up to 1; install a newer one"):
        cnnjax.load_run(run)


def test_training_reads_old_checkpoints_too(run):
    with Checkpoints(run / "checkpoints") as checkpoints:
        arrays, description = checkpoints.read(3)
    assert description["best_step"] == 3
    kernel = cnnjax.load_run(run).variables["params"]["stage1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(arrays["params/stage1/conv1/kernel"], kernel)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images must be \[batch, 28, 28, 1\], got \[1, 32, 32, 3\]"):
        cnnjax.load_run(RUN).logits(np.zeros((1, 32, 32, 3), np.uint8))


def test_images_that_are_no_error_later_are_refused():
    run = cnnjax.load_run(RUN)
    images = np.linspace(0, 255, 28 * 28).round().reshape(1, 28, 28, 1)
    expected = run.logits(images.astype(np.uint8))
    np.testing.assert_array_equal(run.logits(images.astype(np.float32)), expected)
    for kind in (jnp.float32, jnp.bfloat16, jnp.bool):
        name = jnp.dtype(kind).name
        with pytest.raises(ValueError, match=f"count from 0 to 255, got {name} of at most 1; multiply them by 255"):
            run.logits(jnp.asarray(images / 255, kind))
    with pytest.raises(ValueError, match=r"give one image or more, got shape \(0, 28, 28, 1\)"):
        run.logits(images[:0].astype(np.uint8))
    assert run.logits(np.zeros((1, 28, 28, 1), np.float32)).shape == (1, 10)
