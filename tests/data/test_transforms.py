"""Host transforms against torchvision's, whose results `torchvision_reference.py` has written."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

import cnnjax
from cnnjax.data import DataError, DataPipeline, ImageDataset
from cnnjax.data import transforms as transforms_module
from cnnjax.data.decode import decode_image
from cnnjax.data.transforms import RandomResizedCrop, ResizeAndCentreCrop, Stretch, resize

REFERENCE = np.load(Path(__file__).with_name("torchvision_reference.npz"))
CASES = json.loads(str(REFERENCE["cases"]))
PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"


@pytest.fixture(params=["Pillow", pytest.param("cykooz-resizer", marks=pytest.mark.pretrained)])
def resizer(request, monkeypatch):
    """Resize by one of the two libraries that can."""
    if request.param == "Pillow":
        monkeypatch.setattr(transforms_module, "cykooz_resizer", None)
    else:
        assert transforms_module.cykooz_resizer is not None


def region(name, box):
    left, top, right, bottom = box
    return decode_image((PHOTOGRAPHS / name).read_bytes(), 3)[top:bottom, left:right]


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - expected.astype(int))
    # A level is 1/255.
    assert difference.mean() < 0.5
    assert difference.max() <= 8


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("number", range(len(CASES["evaluations"])))
def test_evaluation_is_torchvisions(number):
    name, box, resize_size, crop_size, interpolation = CASES["evaluations"][number]
    found = ResizeAndCentreCrop(resize_size, crop_size, interpolation)(region(name, box))
    assert found.shape == (crop_size, crop_size, 3)
    assert_near(found[::2, ::2] if crop_size > 100 else found, REFERENCE[f"evaluation{number}"])


@pytest.mark.usefixtures("resizer")
@pytest.mark.parametrize("number", range(len(CASES["crops"])))
def test_resized_crops_are_torchvisions(number):
    name, box, size, interpolation = CASES["crops"][number]
    assert_near(Stretch(size, interpolation)(region(name, box)), REFERENCE[f"crop{number}"])


@pytest.mark.usefixtures("resizer")
def test_channels_are_resized_on_their_own():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    whole = resize(pixels, 5, 6)
    for channel in range(4):
        np.testing.assert_array_equal(
            whole[..., channel : channel + 1], resize(pixels[..., channel : channel + 1], 5, 6)
        )


def test_models_are_evaluated_as_the_reference_weights_were():
    compared = 0
    for name in cnnjax.list_models():
        info = cnnjax.model_info(name)
        weights = (info.weights or "").removeprefix("torchvision ")
        if f"{name} {weights}" not in CASES["presets"]:
            continue
        resize_size, crop_size, interpolation, mean, std = CASES["presets"][f"{name} {weights}"]
        ours = info.resize_size or round(info.input_size[0] * 256 / 224)
        assert (name, ours, info.interpolation) == (name, resize_size, interpolation)
        assert (name, info.input_size[0]) == (name, crop_size)
        if name in ("googlenet", "inception_v3"):
            # torchvision's networks turn its normalisation into this one (transform_input).
            mean = std = (0.5, 0.5, 0.5)
        assert (name, *info.mean, *info.std) == (name, *mean, *std)
        compared += 1
    assert compared > 60


class OneRegion:
    """A generator that always draws the same."""

    def __init__(self, scale, ratio, offset):
        self.draws = scale, ratio
        self.offset = offset
        self.count = 0

    def uniform(self, low, high):
        share = self.draws[self.count % 2]
        self.count += 1
        return low + share * (high - low)

    def integers(self, low, high):
        return low + int(self.offset * (high - low - 1))


@pytest.mark.parametrize(
    ("size", "draws", "expected"),
    [
        # All of a square image, at ratio 1.
        ((100, 100), (1.0, 0.5, 0.0), (0, 0, 100, 100)),
        # 8 % of it at ratio 1: sqrt(800) = 28.3 pixels, in the last place there is.
        ((100, 100), (0.0, 0.5, 1.0), (72, 72, 28, 28)),
        # Nothing fits ten times: the largest centred region of ratio 4/3 in a strip, and of 3/4 in an upright one.
        ((30, 400), (1.0, 0.5, 0.0), (0, 180, 30, 40)),
        ((400, 30), (1.0, 0.5, 0.0), (180, 0, 40, 30)),
        ((1, 1), (1.0, 0.0, 0.0), (0, 0, 1, 1)),
    ],
)
def test_regions_of_random_crops(size, draws, expected):
    assert RandomResizedCrop(8).region(*size, OneRegion(*draws)) == expected


def test_one_pixel_and_very_wide_images_are_cropped():
    generator = np.random.default_rng(0)
    for shape in ((1, 1, 3), (2, 20_000, 3), (20_000, 1, 1)):
        pixels = np.full(shape, 7, np.uint8)
        for made in (RandomResizedCrop(8)(pixels, generator), ResizeAndCentreCrop(9, 8)(pixels)):
            np.testing.assert_array_equal(made, np.full((8, 8, shape[-1]), 7))


def test_impossible_settings_are_refused():
    with pytest.raises(DataError, match=r"resize_size must be at least crop_size \(8\), got 7"):
        ResizeAndCentreCrop(7, 8)
    with pytest.raises(DataError, match="interpolation must be one of bilinear, bicubic, got 'nearest'"):
        resize(np.zeros((2, 2, 3), np.uint8), 1, 1, "nearest")


def test_pipelines_take_the_networks_sizes():
    class Wide:
        def __len__(self):
            return 2

        def read(self, indices):
            return [np.zeros((40, 60 + i, 3), np.uint8) for i in indices], np.zeros(len(indices), np.int32)

    data = ImageDataset("wide", "1", Wide(), Wide(), tuple("ab"), (None, None, 3))
    centre = ResizeAndCentreCrop(33, 32, "bicubic")
    pipeline = DataPipeline.create(data, 32, test_transform=centre, interpolation="bicubic")
    assert pipeline.test_transform == ResizeAndCentreCrop(33, 32, "bicubic")
    assert pipeline.train_transform == RandomResizedCrop(32, "bicubic")
    assert DataPipeline.create(data, 224).test_transform == ResizeAndCentreCrop(256, 224, "bilinear")


@pytest.mark.usefixtures("resizer")
def test_the_library_that_resizes_is_known():
    name, version = transforms_module.resizer().split()
    assert name == ("pillow" if transforms_module.cykooz_resizer is None else "cykooz-resizer")
    assert version[0].isdigit()
