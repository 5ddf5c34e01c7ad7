"""Image files and photographs as arrays."""

import builtins
import os
import struct

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataError
from cnnjax.data.decode import read_image
from cnnjax.data.photographs import PHOTOGRAPHS, load_photograph, split_photographs, to_grey


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)]
)
def test_every_mode_is_read_as_grey_or_colour(tmp_path, mode, channels):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 5, channels)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()
    assert to_grey(pixels).shape == (4, 5, 1)
    assert (to_grey(pixels) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[[0], [1], [255]]]


def test_photographs_of_a_folder_are_turned_upright(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(5):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    for photographs in split_photographs(1, tmp_path):
        for found in photographs.values():
            np.testing.assert_array_equal(found[..., 0], np.rot90(pixels, -1))


def test_what_is_too_large_to_be_an_image_is_refused_by_its_head(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("L", (5, 4)).save(path)
    # A file of holes: nothing of it is on the disk.
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match=r"huge.png has 1,099,511,627,776 bytes, more than any image of up to 89"):
        read_image(path)
    path.write_bytes(b"no image")
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match=r"huge.png is not an image that Pillow reads"):
        read_image(path)
    path.write_bytes(b"BM" + bytes(8) + struct.pack("<IIiiHH", 54, 40, 10**5, 10**5, 1, 24) + bytes(24))
    os.truncate(path, 2**40)
    with pytest.raises(DataError, match=r"huge.png has .*pixels.* refused as a decompression bomb"):
        read_image(path)


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text.png is not an image that Pillow reads"):
        read_image(tmp_path / "text.png")
    with pytest.raises(OSError, match=r"No such file.*none.png"):
        read_image(tmp_path / "none.png")


def test_unknown_photographs_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(DataError, match="unknown photograph 'lena'; there are astronaut"):
        load_photograph("lena")
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("skimage"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'cnnjax\[photos\]'"):
        load_photograph("camera")


@pytest.mark.pretrained
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs(name):
    pixels = load_photograph(name)
    assert pixels.dtype == np.uint8
    assert pixels.shape[-1] in (1, 3)
    assert min(pixels.shape[:2]) >= 300
