import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what scans find out of the user's cache."""
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def write_image():
    """Return a function that writes an image of one colour, and makes its folder."""

    def write(path, colour=(10, 20, 30), size=(8, 6), **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path, **options)

    return write


@pytest.fixture
def write_smooth_jpeg():
    """Return a function that writes a JPEG file of a picture, not of one colour."""

    def write(path, size=(48, 40), **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        pixels = np.stack([columns * 3, rows * 4, columns + rows], -1) % 256
        Image.fromarray(pixels.astype(np.uint8)).save(path, format="jpeg", **options)

    return write
