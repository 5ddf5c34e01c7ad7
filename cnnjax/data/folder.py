"""Folders of images: one sub-folder a class.

TFDS's own builder for such folders reads them with TensorFlow and has no random access; hence this one.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from cnnjax.data.files import IMAGE_SUFFIXES, LabelledFile, OnBadImage, hold_out, open_files
from cnnjax.data.source import DataError
from cnnjax.data.splits import SplitSet
from cnnjax.places import local_path

# Names that the folders of splits go by, and what the splits are called.
SPLIT_FOLDERS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def open_folder(path: str | os.PathLike[str], on_bad_image: OnBadImage = "error") -> SplitSet:
    """Open a folder of images.

    ``path`` holds a folder a class, with image files in it at any depth; or folders ``train`` and ``test`` (or ``val``,
    ``valid``, ``validation``), each with a folder a class. Without a folder ``train``, a fifth of each class is for
    testing, by a hash of the files' paths. Classes are numbered in the order of their names, as those of ``train`` are.
    Files of other types than JPEG, PNG, WebP and BMP (by suffix), and hidden ones, are passed over.

    Args:
      path: the folder.
      on_bad_image: see `cnnjax.data.files.open_files`.
    Raises:
      DataError: no such folder, no classes, a class without images, two names of one class, a class that is tested and
        not trained, or images that cannot be used.
    """
    root = local_path(path, "data_dir")
    if not root.is_dir():
        raise DataError(f"data directory {str(root)!r} is not a folder; give --data-dir the folder of the images")
    folders = {folder.name: folder for folder in _folders(root)}
    if "train" not in folders:
        names = _classes(root)
        splits = hold_out(file for number, name in enumerate(names) for file in _files(root, root / name, number))
        return open_files("folder", root, splits, names, on_bad_image=on_bad_image)
    names = _classes(root / "train")
    splits = {}
    for folder, split in SPLIT_FOLDERS.items():
        if folder not in folders:
            continue
        if split in splits:
            raise DataError(f"{str(root)!r} has two folders for the split {split!r}; {folder!r} is one: remove it")
        own = _classes(root / folder, least=1)
        unknown = sorted(set(own) - set(names))
        if unknown:
            raise DataError(
                f"class folder {str(root / folder / unknown[0])!r} has no fellow in {str(root / 'train')!r}; "
                "a class must be trained to be tested"
            )
        splits[split] = [file for name in own for file in _files(root, root / folder / name, names.index(name))]
    return open_files("folder", root, splits, names, on_bad_image=on_bad_image)


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"folder {str(path)!r} cannot be read: {error.strerror or error}") from error


def _classes(path: Path, least: int = 2) -> list[str]:
    """Return the names of the class folders in ``path``, sorted; ``least`` of them must be there."""
    names = [folder.name for folder in _folders(path)]
    if len(names) < least:
        raise DataError(f"{str(path)!r} has {len(names)} class folders, needed are {least} or more")
    seen: dict[str, str] = {}
    for name in names:
        # What looks the same is the same class; upper and lower case may well be two (letters are classes too).
        plain = unicodedata.normalize("NFC", name).strip()
        if plain in seen:
            raise DataError(
                f"class folders {seen[plain]!r} and {name!r} in {str(path)!r} differ in invisible characters only; "
                "put their images together"
            )
        seen[plain] = name
    return names


def _files(root: Path, folder: Path, label: int) -> list[LabelledFile]:
    """Return the image files under a class's folder."""

    def refuse(error: OSError) -> None:
        raise DataError(f"folder {error.filename!r} cannot be read: {error.strerror or error}") from error

    found = [
        LabelledFile(os.path.relpath(os.path.join(where, name), root), label)
        for where, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise DataError(
            f"class folder {str(folder)!r} holds no image file ({', '.join(IMAGE_SUFFIXES)}); remove it or fill it"
        )
    return found
