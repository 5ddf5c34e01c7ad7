"""Claims that train run from measuring to drawing, on a few made-up images."""

import importlib
import json

import numpy as np
import pytest

from cnnjax.claims import CLAIMS, Setting, depthwise, transfer, vanishing
from cnnjax.claims.fitting import Arrays
from cnnjax.visualize.canvas import new_figure


def ten_kinds(setting):
    """Return 60 images of ten classes, which differ in where they are bright."""
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 10
    images = generator.uniform(0, 0.3, (60, 8, 8, 1)).astype(np.float32)
    images[np.arange(60), labels % 8, labels // 2] = 1
    return Arrays("made up", images, labels, images[:20], labels[:20])


# The others are run by the exhaustive test of test_report.py.
NAMES = ("mlp_and_cnn", "small_kernels", "pooling", "vanishing", "regularization", "augmentation", "depthwise")


@pytest.mark.pretrained
def test_transfer_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    numbers = json.loads(json.dumps(CLAIMS["transfer"].measure(Setting(quick=True, seeds=(0, 1))), allow_nan=False))
    faces, scenes = numbers["accuracy"].values()
    assert set(faces) == {transfer.FROZEN, transfer.LAST, transfer.ALL, transfer.SCRATCH, transfer.SMALL}
    assert set(scenes) == {transfer.FROZEN, transfer.SMALL}
    # Published weights see faces even in small, enlarged pictures.
    assert np.mean(faces[transfer.FROZEN]["2"]) > 70
    # A scene's middle is less than half a diagonal from any place.
    assert all(0 < np.mean(rows["2"]) < transfer.SIZE / 2**0.5 for rows in numbers["centres"].values())
    figure = new_figure(*CLAIMS["transfer"].size)
    CLAIMS["transfer"].draw(numbers, figure)
    figure.canvas.draw()
    assert len(figure.axes) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_judged_and_drawn(name, monkeypatch):
    module = importlib.import_module(f"cnnjax.claims.{name}")
    monkeypatch.setattr(module, "load_arrays", ten_kinds)
    monkeypatch.setattr(vanishing, "TRAINED_DEPTH", 2)
    # Counted by a test of its own.
    counted = {"networks": {kind: {"macs": 1, "params": 1} for kind in depthwise.PAPER}, "layers": []}
    monkeypatch.setattr(depthwise, "counts", lambda: counted | {"layers": [{"full": 9, "separable": 1, "features": 1}]})
    numbers = CLAIMS[name].measure(Setting(quick=True, seeds=(0, 1)))
    # What is judged and drawn is what the file holds.
    numbers = json.loads(json.dumps(numbers, allow_nan=False))
    verdict = CLAIMS[name].judge(numbers)
    assert str(verdict).startswith("the claim")
    assert "made up" in verdict.reason
    figure = new_figure(*CLAIMS[name].size)
    CLAIMS[name].draw(numbers, figure)
    figure.canvas.draw()
    assert all(axes.has_data() for axes in figure.axes)
