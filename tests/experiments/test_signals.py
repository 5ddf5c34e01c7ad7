"""The pictures of experiments/signals.py, from an image file."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPEC = importlib.util.spec_from_file_location("signals", Path(__file__).parents[2] / "experiments" / "signals.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)
main = script.main

PICTURES = ("one_dimension", "filters", "borders", "strides", "pooling", "activations")


@pytest.mark.slow
def test_all_pictures_are_drawn(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (65, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert main(["--image", str(tmp_path / "noise.png"), "--workdir", str(tmp_path / "out")]) == 0
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(PICTURES)
    for name in PICTURES:
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10, f"{name} is blank"


@pytest.mark.parametrize(("size", "message"), [(None, "No such file"), ((20, 70), "at least 64x64 pixels")])
def test_bad_images_are_refused(tmp_path, capsys, size, message):
    if size is not None:
        Image.new("L", size).save(tmp_path / "image.png")
    assert main(["--image", str(tmp_path / "image.png"), "--workdir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.pretrained
def test_the_photograph_needs_no_file(tmp_path):
    assert main(["--workdir", str(tmp_path)]) == 0
    assert (tmp_path / "filters.png").stat().st_size > 100_000
