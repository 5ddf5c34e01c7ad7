"""experiments/augment.py: a picture, and a set that training reads."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnnjax.data import load_dataset
from cnnjax.data.augment import OPERATIONS, parse

SPEC = importlib.util.spec_from_file_location("augment", Path(__file__).parents[2] / "experiments" / "augment.py")
script = importlib.util.module_from_spec(SPEC)
# Dataclasses look their module up by name.
sys.modules[SPEC.name] = script
SPEC.loader.exec_module(script)


@pytest.mark.slow
def test_a_picture_shows_each_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (140, 150, 3), np.uint8)).save(tmp_path / "in.png")
    script.Picture(image=tmp_path / "in.png", augment=("mirror:1", "cutout:40")).run(Console(quiet=True))
    with Image.open("outputs/augment/augmentations.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    # The original and four draws in each of two rows, the lower ones with a square missing.
    assert pixels.shape[1] > 1.5 * pixels.shape[0]
    lower = pixels[pixels.shape[0] // 2 :]
    assert (lower == 0).all(-1).mean() > 0.01 > (pixels[: pixels.shape[0] // 2] == 0).all(-1).mean()


def test_every_operation_is_in_the_picture():
    assert set(script.STRENGTHS) == set(OPERATIONS)
    for name, strengths in script.STRENGTHS.items():
        for strength in strengths:
            parse(f"{name}:{strength}", num_classes=2)


def test_a_written_set_can_be_trained_on(tmp_path, monkeypatch, capsys):
    arguments = ["write", "--dataset", "digits", "--train-split", "train[:20]", "--augment", "crop:1", "--copies", "1"]
    monkeypatch.setattr(sys, "argv", ["augment.py", *arguments, "--output-dir", str(tmp_path)])
    assert script.run_command(script.main) == 0
    assert f"--dataset digits_augmented --data-dir {tmp_path}" in capsys.readouterr().out
    dataset = load_dataset("digits_augmented", tmp_path)
    assert len(dataset.train) == 40
    assert len(dataset.test) == 359
    recipe = json.loads((tmp_path / "digits_augmented" / "1.0.0" / "recipe.json").read_text())
    assert recipe["train_split"] == "train[:20]"


@pytest.mark.parametrize(("argument", "message"), [("nope", "unknown augmentation"), ("mixup", "two labels")])
def test_errors_are_one_line(argument, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["augment.py", "write", "--augment", argument, "--output-dir", str(tmp_path)])
    assert script.run_command(script.main) == 2
    assert message in capsys.readouterr().err
