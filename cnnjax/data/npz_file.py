"""Arrays of images and labels in one .npz file."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.files import OnBadImage, in_order, refuse_bad_images, refuse_special
from cnnjax.data.source import ArraySplit, DataError, ExampleSource, Task
from cnnjax.data.splits import WHOLE, SplitSet
from cnnjax.places import local_path

# Names of the arrays of each split; the first are ours, the others those of MedMNIST and Keras.
KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": (("validation_images", "validation_labels"), ("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
TEST_EVERY = 5
# Numbers of channels of grey images, colour images, and colour images with transparency.
CHANNELS = (1, 3, 4)
# Arrays of more bytes than this that are also so many times as large as their file are taken for a decompression bomb.
MUCH = 1 << 30
LARGEST_RATIO = 100


def open_npz(path: str | os.PathLike[str], on_bad_image: OnBadImage = "error", *, to_train: bool = True) -> SplitSet:
    """Open an .npz file (NumPy's; nothing in it is executed), which is read into memory.

    Arrays: ``train_images`` and ``train_labels``, the same with ``test`` and ``validation`` (or ``val``), or Keras's
    ``x_train``, ``y_train``, ``x_test``, ``y_test``; or ``images`` and ``labels``, of which every fifth is for testing.
    Images are [examples, height, width] or [examples, height, width, channels]: uint8; uint16, of which the upper 8
    bits are taken; or floats from 0 to 1, rounded to 256 levels. Labels are whole numbers from 0 or strings, [examples]
    or [examples, 1] (classes), or floats [examples] or [examples, outputs] (numbers to regress). ``label_names`` may
    name the classes; those of strings are otherwise numbered in the order of their names.

    Args:
      path: the file.
      on_bad_image: images with NaN or levels outside 0 to 1 are an error at once ("error") or left out ("skip").
        A bad label is an error always.
      to_train: False, for a network that is trained already, holds nothing out of ``images``, and asks neither for two
        classes nor for images to train on.
    Raises:
      DataError: the file or its arrays are not like that; the array and the example are named.
    """
    file = local_path(path, "data_dir")
    arrays = _load(file)
    whole: dict[str, tuple[str, str]] = {}
    for split, alternatives in KEYS.items():
        for images, labels in alternatives:
            if images in arrays and labels in arrays:
                whole[split] = images, labels
                break
    undivided = not whole and "images" in arrays and "labels" in arrays
    if undivided:
        whole[WHOLE] = "images", "labels"
    elif not whole or (to_train and "train" not in whole):
        raise DataError(
            f"{str(file)!r} has arrays {', '.join(sorted(arrays)) or 'none'}; needed are train_images and train_labels "
            "(and test_images, test_labels), or images and labels"
        )
    task: Task = (
        "regression" if np.issubdtype(arrays[next(iter(whole.values()))[1]].dtype, np.floating) else "classification"
    )
    label_keys = [labels for _, labels in whole.values()]
    names = _names(file, arrays, label_keys, task)
    if task == "classification":
        arrays |= {key: _numbered(file, key, arrays[key], names) for key in label_keys}
    splits: dict[str, ExampleSource] = {}
    shapes: set[tuple[int, ...]] = set()
    bad: list[tuple[str, str]] = []
    numbers_of: dict[str, np.ndarray] = {}
    count = 0
    for split, (images_key, labels_key) in whole.items():
        pixels, broken = _images(file, images_key, arrays[images_key])
        numbers = numbers_of[split] = _labels(file, labels_key, arrays[labels_key], task, len(names))
        if len(pixels) != len(numbers) or not len(pixels):
            raise DataError(
                f"{str(file)!r} has {len(pixels)} {images_key} and {len(numbers)} {labels_key}, not one each"
            )
        count += len(pixels)
        bad += [(f"{file}:{images_key}[{index}]", reason) for index, reason in broken.items()]
        good = np.setdiff1d(np.arange(len(pixels)), list(broken))
        shapes.add(pixels.shape[1:])
        parts = {split: good}
        if undivided and to_train:
            # By the number that the image has in the file, whatever is left out.
            testing = good % TEST_EVERY == TEST_EVERY - 1
            parts = {"train": good[~testing], "test": good[testing]}
        for part, kept in parts.items():
            splits[part] = ArraySplit(pixels[kept], numbers[kept])
    refuse_bad_images(bad, count, on_bad_image)
    if len(shapes) > 1:
        raise DataError(f"{str(file)!r} has images of shapes {sorted(shapes)}; needed is one shape in all splits")
    empty = [split for split, source in splits.items() if not len(source)]
    if empty:
        raise DataError(f"split {empty[0]!r} of {str(file)!r} has no image that can be used")
    if to_train and task == "classification":
        trained = np.unique(numbers_of[WHOLE if undivided else "train"])
        if len(trained) < 2:
            raise DataError(
                f"{label_keys[0]} in {str(file)!r} has one class, {names[trained[0]]!r}; needed are two or more "
                "(floats are numbers to regress)"
            )
    height, width, channels = shapes.pop()
    with file.open("rb") as stored:
        version = hashlib.file_digest(stored, "sha256").hexdigest()[:12]
    return SplitSet("npz", version, splits, names, (height, width, channels), task, tuple(bad))


def _load(file: Path) -> dict[str, np.ndarray]:
    refuse_special(file)
    try:
        with file.open("rb") as stored:
            if stored.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{str(file)!r} holds one array; needed is an .npz file of images and labels")
        with zipfile.ZipFile(file) as archive:
            _refuse_bomb(file, archive)
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except OSError as error:
        raise DataError(f"npz file {str(file)!r} cannot be read: {error.strerror or error}; see --data-dir") from error
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"the arrays of {str(file)!r} do not fit into memory: {error}; take fewer images") from error
    except (ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{str(file)!r} is not an .npz file of plain arrays: {error}") from error


def _refuse_bomb(file: Path, archive: zipfile.ZipFile) -> None:
    """Raise DataError where arrays are far larger than the file, or than what it holds of them, by their heads."""
    total = sum(member.file_size for member in archive.infolist())
    size = file.stat().st_size
    if total > MUCH and total > LARGEST_RATIO * size:
        raise DataError(
            f"{str(file)!r} of {size:,} bytes would fill {total:,} bytes of memory and is refused as a decompression "
            "bomb; store the arrays by numpy.savez, which does not compress"
        )
    for member in archive.infolist():
        with archive.open(member) as stored:
            if stored.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                continue
        with archive.open(member) as stored:
            version = np.lib.format.read_magic(stored)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise DataError(
                    f"{member.filename} in {str(file)!r} is not a plain array; needed are numbers or strings"
                )
            shape, _, dtype = read[version](stored)
            held = member.file_size - stored.tell()
            claimed = math.prod(shape) * dtype.itemsize
            # Objects, which have no size of their own, are refused when they are read.
            if claimed != held and not dtype.hasobject:
                raise DataError(
                    f"{member.filename} in {str(file)!r} claims to be {dtype}{list(shape)}, {claimed:,} bytes, and "
                    f"holds {held:,}; the file is damaged, write it again"
                )


def _images(file: Path, key: str, images: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Return images as uint8[examples, height, width, channels], and by number what is wrong with some."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(
            f"{key} in {str(file)!r} has shape {images.shape}; needed is [examples, height, width] or [..., channels]"
        )
    if images.shape[1] in CHANNELS and images.shape[3] not in CHANNELS:
        raise DataError(
            f"{key} in {str(file)!r} has shape {images.shape}, channels first; needed is [examples, height, width, "
            f"channels]: transpose it by {key}.transpose(0, 2, 3, 1)"
        )
    if images.dtype == np.uint8:
        return images, {}
    if images.dtype == np.uint16:
        return (images >> 8).astype(np.uint8), {}
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(
            f"{key} in {str(file)!r} is of type {images.dtype}; needed is uint8, uint16, or floats from 0 to 1"
        )
    made = np.zeros(images.shape, np.uint8)
    bad = {}
    for index, image in enumerate(images):
        low, high = float(image.min()), float(image.max())
        # NaN is neither.
        if low >= 0 and high <= 1:
            made[index] = np.round(image * 255)
        else:
            bad[index] = "has NaN" if np.isnan(low) else f"has levels from {low:g} to {high:g}, not from 0 to 1"
    return made, bad


def _labels(file: Path, key: str, labels: np.ndarray, task: Task, outputs: int) -> np.ndarray:
    if task == "regression":
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.ndim != 2 or labels.shape[1] != outputs or not np.issubdtype(labels.dtype, np.floating):
            raise DataError(
                f"{key} in {str(file)!r} is {labels.dtype}{list(labels.shape)}; needed are floats [examples, {outputs}]"
            )
        (rows,) = np.nonzero(~np.isfinite(labels).all(1))
        if len(rows):
            raise DataError(
                f"{key}[{rows[0]}] in {str(file)!r} is {labels[rows[0]].tolist()}; needed are finite numbers"
            )
        return labels.astype(np.float32)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{key} in {str(file)!r} is {labels.dtype}{list(labels.shape)}; needed are whole numbers [examples]"
        )
    (rows,) = np.nonzero((labels < 0) | (labels >= outputs))
    if len(rows):
        raise DataError(
            f"{key}[{rows[0]}] in {str(file)!r} is {labels[rows[0]]}; needed is a class from 0 to {outputs - 1}"
        )
    return labels.astype(np.int32)


def _text(file: Path, key: str, labels: np.ndarray) -> np.ndarray:
    """Return an array of strings or of their bytes as strings, without blanks around them."""
    try:
        return np.strings.strip(np.strings.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels)
    except UnicodeDecodeError as error:
        raise DataError(f"{key} in {str(file)!r} is not text in UTF-8: {error}") from error


def _numbered(file: Path, key: str, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the numbers of classes that are given by name; others as they are."""
    if labels.dtype.kind not in "SU":
        return labels
    numbers = {name: number for number, name in enumerate(names)}
    text = _text(file, key, labels)
    for index, name in enumerate(text.ravel().tolist()):
        if name not in numbers:
            raise DataError(f"{key}[{index}] in {str(file)!r} is {name!r}; needed is one of {', '.join(names)}")
    return np.array([numbers[name] for name in text.ravel().tolist()], np.int32).reshape(text.shape)


def _names(file: Path, arrays: dict[str, np.ndarray], label_keys: list[str], task: Task) -> tuple[str, ...]:
    """Return the names of the classes or numbers: those in the file, or the numbers themselves."""
    first: Any = arrays[label_keys[0]]
    if task == "regression":
        outputs = 1 if first.ndim == 1 else int(first.shape[-1])
    else:
        # The classes are those that are trained.
        if first.dtype.kind in "SU":
            if "label_names" not in arrays:
                return tuple(in_order(_text(file, label_keys[0], first).ravel().tolist()))
            outputs = 0
        else:
            outputs = int(first.max(initial=0)) + 1
    if "label_names" not in arrays:
        return tuple(str(number) for number in range(outputs))
    names = tuple(str(name).strip() for name in arrays["label_names"].ravel())
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"label_names in {str(file)!r} has {twice!r} twice; each class needs a name of its own")
    return names
