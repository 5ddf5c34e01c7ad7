"""Image files that are not as they should be: what is converted, what is refused, what is skipped."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import BadImage, DataError, DataPipeline, load_dataset
from cnnjax.data import decode as decode_module
from cnnjax.data.decode import check_image, decode_image


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def huge_png(width, height):
    """Return a small PNG file that says it is huge."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


GREY = Image.new("L", (4, 3), 200)
# Name: file, channels asked for, the pixels of what comes out, height and width.
CONVERTED = {
    "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 8, 7))), 3, (9, 8, 7), (1, 1)),
    "very wide": (encoded(Image.new("RGB", (20_000, 2), (9, 8, 7)), "jpeg", quality=100), 3, (9, 8, 7), (2, 20_000)),
    "CMYK": (encoded(Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "jpeg", quality=100), 3, (255, 0, 0), (3, 4)),
    "16 bits": (encoded(Image.fromarray(np.full((3, 4), 0xAB12, np.uint16))), 3, (0xAB,) * 3, (3, 4)),
    "palette": (encoded(Image.new("RGB", (4, 3), (255, 0, 0)).convert("P")), 3, (255, 0, 0), (3, 4)),
    "two levels": (encoded(Image.new("1", (4, 3), 1)), 1, (255,), (3, 4)),
    "alpha": (encoded(Image.new("RGBA", (4, 3), (9, 8, 7, 0))), 3, (9, 8, 7), (3, 4)),
    "grey with alpha": (encoded(Image.new("LA", (4, 3), (9, 0))), 1, (9,), (3, 4)),
    "palette with alpha": (
        encoded(Image.new("RGB", (4, 3), (255, 0, 0)).convert("P"), transparency=bytes(range(256))),
        3,
        (255, 0, 0),
        (3, 4),
    ),
    "animated": (
        encoded(
            Image.new("RGB", (4, 3), (9, 8, 7)),
            "webp",
            save_all=True,
            append_images=[Image.new("RGB", (4, 3))],
            lossless=True,
        ),
        3,
        (9, 8, 7),
        (3, 4),
    ),
    "grey as colour": (encoded(GREY, "jpeg"), 3, (200,) * 3, (3, 4)),
    "colour as grey": (encoded(GREY.convert("RGB"), "jpeg"), 1, (200,), (3, 4)),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_converted(name):
    data, channels, colour, size = CONVERTED[name]
    pixels = decode_image(data, channels)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, channels)
    np.testing.assert_allclose(pixels, np.broadcast_to(colour, pixels.shape), atol=1)
    facts = check_image(data)
    assert facts[:2] == size
    assert facts.grey == (Image.open(io.BytesIO(data)).mode in ("1", "L", "LA", "I;16"))


def turned(orientation):
    """Return a JPEG file that is upright once it is turned as its EXIF says: the upper left quarter is white."""
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255
    stored = {
        **{0: upright, 1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.T, 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1), 9: upright},
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(stored[orientation])), "jpeg", exif=exif, quality=95)


@pytest.mark.parametrize("decoder", ["Pillow", pytest.param("simplejpeg", marks=pytest.mark.pretrained)])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_turned_upright(orientation, decoder, monkeypatch):
    if decoder == "Pillow":
        monkeypatch.setattr(decode_module, "simplejpeg", None)
    else:
        assert decode_module.simplejpeg is not None
    data = turned(orientation)
    pixels = decode_image(data, 1)
    assert pixels.shape == (16, 32, 1)
    assert pixels[:6, :14].min() > 200
    assert max(pixels[10:].max(), pixels[:, 18:].max()) < 50
    assert check_image(data) == (16, 32, True)


def smooth_jpeg(write, tmp_path):
    write(tmp_path / "smooth.jpg")
    return (tmp_path / "smooth.jpg").read_bytes()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated(write_smooth_jpeg, tmp_path, share, progressive):
    write_smooth_jpeg(tmp_path / "smooth.jpg", progressive=progressive)
    data = (tmp_path / "smooth.jpg").read_bytes()
    for use in (check_image, lambda data: decode_image(data, 3)):
        with pytest.raises(BadImage, match="cannot be decoded|is not an image"):
            use(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"This is a text.", "is not an image that Pillow reads"),
        # Pillow would have Ghostscript run it.
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is in HEIC, .* convert it to JPEG"),
        (encoded(Image.new("F", (2, 2)), "tiff"), "32 bits a pixel"),
        (encoded(GREY)[:50], "cannot be decoded"),
        (huge_png(10_000, 9_000), "refused as a decompression bomb"),
        (huge_png(60_000, 60_000), "refused as a decompression bomb"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused(data, message):
    for use in (check_image, lambda data: decode_image(data, 1)):
        with pytest.raises(BadImage, match=message):
            use(data)


@pytest.mark.pretrained
def test_jpeg_files_are_decoded_to_the_same_bits_with_and_without_simplejpeg(write_smooth_jpeg, tmp_path, monkeypatch):
    data = smooth_jpeg(write_smooth_jpeg, tmp_path)
    assert decode_module.simplejpeg is not None
    with_it = decode_image(data, 3)
    monkeypatch.setattr(decode_module, "simplejpeg", None)
    np.testing.assert_array_equal(decode_image(data, 3), with_it)


def spoil(folder):
    """Put three files that cannot be used among good ones, and return what is said of them by path."""
    (folder / "a" / "text.jpg").write_text("This is a text.")
    whole = (folder / "b" / "0.jpg").read_bytes()
    (folder / "b" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return {
        str(folder / "a" / "text.jpg"): "is not an image",
        str(folder / "b" / "cut.jpg"): "cannot be decoded",
        str(folder / "b" / "gone.jpg"): "cannot be read: No such file",
    }


@pytest.fixture
def folder(tmp_path, write_smooth_jpeg):
    for name in ("a", "b"):
        for number in range(10):
            write_smooth_jpeg(tmp_path / "images" / name / f"{number}.jpg", size=(24 + number, 20))
    return tmp_path / "images"


def test_one_error_at_the_start_names_the_path(folder):
    path, reason = next(iter(spoil(folder).items()))
    with pytest.raises(DataError, match=f"3 of 23 images cannot be used; the first, '{path}', {reason}"):
        load_dataset("folder", folder)


def test_skipped_images_are_counted_and_shift_no_labels(folder):
    whole = load_dataset("folder", folder)
    reasons = spoil(folder)
    data = load_dataset("folder", folder, on_bad_image="skip")
    assert {path for path, _ in data.skipped} == set(reasons)
    for path, reason in data.skipped:
        assert reasons[path] in reason
    for split in (data.train, data.test):
        assert not {str(folder / path) for path in split.paths} & set(reasons)
        assert [path.startswith("b") for path in split.paths] == [label == 1 for label in split.labels]
    assert set(data.train.paths) | set(data.test.paths) == set(whole.train.paths) | set(whole.test.paths)
    # Batches are full, and the same again.
    pipeline = DataPipeline.create(data, 8)
    first, again = (list(pipeline.train_batches(6, 4, seed=3)) for _ in range(2))
    for batch, other in zip(first, again, strict=True):
        assert batch["image"].shape == (6, 8, 8, 3)
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    # The superuser may read everything, so permissions themselves cannot be relied on here.
    real = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "3.jpg" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a/3\.jpg', cannot be read: Permission denied"):
        load_dataset("folder", folder)
    assert len(load_dataset("folder", folder, on_bad_image="skip").skipped) == 1
    # It is asked for again, not remembered as bad.
    monkeypatch.setattr(Path, "open", real)
    assert load_dataset("folder", folder).skipped == ()


@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_file_that_is_damaged_in_an_epoch_is_an_error_with_its_path(folder, damage):
    pipeline = DataPipeline.create(load_dataset("folder", folder), 8)
    file = folder / pipeline.train.paths[5]
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    else:
        file.unlink()
    batches = pipeline.train_batches(16, 2, seed=0)
    with pytest.raises(DataError, match=f"image '{file}' .*(was it changed|any more)"):
        list(batches)


def test_nothing_is_left(folder):
    for file in folder.glob("*/*.jpg"):
        file.write_text("This is a text.")
    with pytest.raises(DataError, match="all 20 images .* were skipped"):
        load_dataset("folder", folder, on_bad_image="skip")


def test_a_damaged_image_of_a_tfds_set_is_named(tmp_path, monkeypatch):
    digits = load_dataset("digits", tmp_path)
    real = digits.test._source

    class Damaged:
        def __len__(self):
            return len(real)

        def __getitem__(self, index):
            return self.__getitems__([index])[0]

        def __getitems__(self, indices):
            found = real.__getitems__(indices)
            return [
                {**example, "image": example["image"][:40]} if index == 3 else {**example, "label": -1}
                for index, example in zip(indices, found, strict=True)
            ]

    monkeypatch.setattr(digits.test, "_source", Damaged())
    with pytest.raises(DataError, match="image 3 of split 'test' of digits is not an image"):
        digits.test.read(np.array([3]))[0][0]
    with pytest.raises(DataError, match="label -1 of image 5 of split 'test' of digits is not from 0 to 9"):
        digits.test.read(np.array([5]))
