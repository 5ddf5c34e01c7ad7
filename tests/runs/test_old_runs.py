"""Runs that an older version left in the middle of their second epoch, each by another script, load and go on.

Each archive in ``data`` holds a workdir, and ``expected.json``: what the run came to when that version was not stopped.
"""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import cnnjax
from cnnjax.training import TrainConfig, fit

DATA = Path(__file__).parent / "data"
SCRIPTS = Path(__file__).parents[2] / "experiments"
# What a run returns for two images, and how to build it.
SHAPES = {
    "train": ((28, 28, 1), (2, 10)),
    "finetune": ((28, 28, 1), (2, 10)),
    "segment": ((19, 23, 1), (2, 19, 23, 2)),
    "autoencode": ((8, 8, 1), (2, 8, 8, 1)),
    "denoise": ((11, 9, 1), (2, 11, 9, 1)),
}
CONFIGS = {
    "finetune": "Config",
    "segment": "TrainSegmenter",
    "autoencode": "Config",
    "denoise": "TrainDenoiser",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of the photographs that these runs were given, and of data sets."""
    path = tmp_path_factory.mktemp("old")
    (path / "photographs").mkdir()
    (path / "sets").mkdir()
    y, x = np.mgrid[:20, :24]
    for index in range(5):
        pixels = ((x * (index + 3) + y * 7) % 256).astype(np.uint8)
        Image.fromarray(pixels).save(path / "photographs" / f"{index}.png")
    return path


def unpack(name, folder):
    run = folder / name
    with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
        archive.extractall(run)
    return run


@pytest.mark.parametrize("name", SHAPES)
def test_runs_of_every_script_load(name, tmp_path):
    run = cnnjax.load_run(unpack(name, tmp_path))
    assert run.step == 2
    shape, expected = SHAPES[name]
    outputs = jax.jit(run.outputs)(np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8))
    assert outputs.shape == expected
    assert outputs.dtype == np.float32
    if name in ("segment", "autoencode", "denoise"):
        with pytest.raises(ValueError, match="has no logits; take outputs"):
            run.logits(np.zeros((1, *shape), np.uint8))


def script(name):
    spec = importlib.util.spec_from_file_location(f"old_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name == "train" else pytest.param(name, marks=pytest.mark.exhaustive) for name in SHAPES]
)
def test_runs_of_every_script_go_on(name, folder, monkeypatch):
    run = unpack(name, folder)
    monkeypatch.chdir(folder)
    module = script(name)
    asked = json.loads((run / "config.json").read_text())["config"]
    asked = {key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()}
    paths = {"workdir": run, "data_dir": folder / "photographs" if name == "denoise" else folder / "sets"}
    if name == "segment":
        paths["photographs"] = Path(asked["photographs"])
    console = Console(quiet=True)
    if name == "train":
        result = fit(TrainConfig(**(asked | paths)), console)
    else:
        config = getattr(module, CONFIGS[name])(**(asked | paths))
        result = fit(config, console) if name == "finetune" else fit(config, console, module.setup)
    expected = json.loads((run / "expected.json").read_text())
    assert result["steps"] == expected["steps"] == 4
    for key, value in expected.items():
        assert result[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
