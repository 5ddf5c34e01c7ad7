"""From the bytes of an image file to pixels, and what becomes of files that are not as they should be.

Converted: CMYK, palettes and 1-bit images to the colours they stand for; 16 bits per channel to 8 (the upper ones);
transparency is dropped; of an animation the first picture is taken; an image that its EXIF says is rotated is turned
upright. Refused, with the reason: what is in none of `FORMATS` or is truncated, and more pixels than `MAX_PIXELS`,
which is how a small file fills the memory (a decompression bomb).

JPEG files are decoded by simplejpeg (libjpeg-turbo) where it is installed, to the same bits as by Pillow.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnjax.data.source import DataError

try:
    import simplejpeg
except ModuleNotFoundError:
    simplejpeg = None

# Pillow warns from here on, and refuses twice as many.
MAX_PIXELS = 89_478_485
# As many pixels of four channels of 16 bits without compression, and something for what else a file says. The head of
# files of more than so many bytes is looked at before they are read.
MAX_BYTES, LARGE = 8 * MAX_PIXELS + 2**26, 2**24
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Formats that Pillow decodes itself, common ones first. PostScript (EPS) it would hand to Ghostscript, another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# How files begin that people take for images, and what to say of them. In HEIC, four bytes of a length come first.
NOT_READ = {
    b"%!PS": "is PostScript, which is a program; convert it to PNG",
    b"\xc5\xd0\xd3\xc6": "is PostScript, which is a program; convert it to PNG",
    **{
        b"ftyp" + brand: "is in HEIC, the format of iPhones, which is not read; convert it to JPEG"
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    },
}
# What Pillow's readers raise on bytes that are not what they should be.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
JPEG_START = b"\xff\xd8\xff"
# Colour spaces that simplejpeg gives as Pillow does, by channels asked for.
JPEG_COLOURS = {("Gray", 1): "GRAY", ("Gray", 3): "RGB", ("YCbCr", 3): "RGB"}

# What turns rows and columns upright, by EXIF's orientation.
ORIENTATION = 0x0112
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


class BadImage(DataError):
    """An image that cannot be used. The message says why; a caller that knows which image it is puts that in front."""


class ImageFacts(NamedTuple):
    """What an image is, once upright."""

    height: int
    width: int
    grey: bool


def read_image(path: Path, channels: int | None = None) -> np.ndarray:
    """Return the pixels of an image file, see `decode_image`.

    Args:
      path: of the file.
      channels: 1 (grey), 3 (RGB) or 4 (RGBA); None for 1 where the file is grey, else 3.
    Raises:
      BadImage: the file cannot be used; the message names it.
      OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        # A device or pipe may never end.
        raise BadImage(f"{path} is a folder, device or pipe, not a regular file")
    try:
        data = read_file(path)
        if channels is None:
            channels = 1 if _is_grey(_open(data)) else 3
        return decode_image(data, channels)
    except BadImage as error:
        raise BadImage(f"{path} {error}") from error


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file, as far as an image may have so many.

    Raises:
      BadImage: the head of a large file says that it is none or has too many pixels, or it has too many bytes.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGE:
            _open(file)
            file.seek(0)
        if size > MAX_BYTES:
            raise BadImage(f"has {size:,} bytes, more than any image of up to {MAX_PIXELS:,} pixels needs")
        return file.read()


def decode_image(data: bytes, channels: int) -> np.ndarray:
    """Decode an image file as the module's text says.

    Args:
      data: of a file in one of `FORMATS`.
      channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    Returns:
      uint8[height, width, channels].
    Raises:
      BadImage: the file cannot be used.
      DataError: another number of channels.
    """
    if channels not in MODES:
        raise DataError(f"images of {channels} channels cannot be decoded; 1 (grey), 3 (RGB) and 4 (RGBA) can")
    if simplejpeg is not None and data.startswith(JPEG_START):
        pixels = _decode_jpeg(data, channels)
        if pixels is not None:
            # Few files say more of themselves, and Pillow reads no more of those than their heads.
            return TURNS[_orientation(_open(data))](pixels) if b"Exif\0\0" in data else pixels
    image = _open(data)
    try:
        pixels = np.asarray(_eight_bits(image).convert(MODES[channels]))
    except BROKEN as error:
        raise BadImage(f"cannot be decoded: {error}") from error
    return TURNS[_orientation(image)](pixels[..., None] if channels == 1 else pixels)


def check_image(data: bytes) -> ImageFacts:
    """Read a whole image file, at the least cost at which all damage that `decode_image` would find shows.

    Raises:
      BadImage: the file cannot be used.
    """
    image = _open(data)
    width, height = image.size
    grey = _is_grey(image)
    try:
        # JPEG at an eighth of the size: all bytes are read, few pixels are made.
        image.draft(None, (1, 1))
        _eight_bits(image)
        sideways = _orientation(image) >= 5
    except BROKEN as error:
        raise BadImage(f"cannot be decoded: {error}") from error
    return ImageFacts(width, height, grey) if sideways else ImageFacts(height, width, grey)


def _decode_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """Return the pixels of a JPEG file, or None where Pillow has to look at it."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        wanted = JPEG_COLOURS.get((colours, channels))
        if wanted is None or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(data, wanted)
    except ValueError:
        # Pillow forgives some of what this does not, and says why it does not forgive the rest.
        return None


def _open(data: bytes | BinaryIO) -> Image.Image:
    """Read the head of an image file."""
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BadImage(_what_it_is(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"has more than {MAX_PIXELS:,} pixels and is refused as a decompression bomb") from error
    except BROKEN as error:
        raise BadImage(f"cannot be decoded: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(
            f"has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: refused as a decompression bomb"
        )
    return image


def _what_it_is(data: bytes | BinaryIO) -> str:
    """Say why a file is not an image, from its first bytes."""
    if isinstance(data, bytes):
        head = data[:12]
    else:
        data.seek(0)
        head = data.read(12)
    if not head:
        return "is empty"
    said = (reason for start, reason in NOT_READ.items() if head.startswith(start) or head[4:].startswith(start))
    return next(said, "is not an image that Pillow reads")


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image that ``convert`` turns into grey or colour without loss of range and without a word."""
    image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(
            f"has 32 bits a pixel (Pillow's mode {image.mode}), whose range is not known; store it in 8 or 16"
        )
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation; 1, upright, where there is none or one that means nothing."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except BROKEN:
        # What cannot be read of it says nothing; the pixels are none the worse for it.
        return 1
    return orientation if orientation in TURNS else 1
