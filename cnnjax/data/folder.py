"""Folders of images: one sub-folder a class.

TFDS's own builder for such folders reads them with TensorFlow and has no random access; hence this one.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cnnjax.data.files import IMAGE_SUFFIXES, LabelledFile, OnBadImage, hold_out, open_files
from cnnjax.data.source import DataError
from cnnjax.data.splits import WHOLE, SplitSet
from cnnjax.places import local_path

# Names that the folders of splits go by, in small letters and without "set" or "data" at their end, and what the splits
# are called.
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "dev": "validation",
}
# What archives made by macOS hold beside the images.
NOT_DATA = "__MACOSX"

logger = logging.getLogger(__name__)


def open_folder(path: str | os.PathLike[str], on_bad_image: OnBadImage = "error", *, to_train: bool = True) -> SplitSet:
    """Open a folder of images.

    ``path`` holds a folder a class, with image files in it at any depth; or folders of splits, each with a folder a
    class: ``train`` and ``test`` (or ``val``), in any case and in the other spellings of ``SPLIT_FOLDERS``
    (``Training``, ``test_set``). Without a folder ``train``, a fifth of each class is for testing, by a hash of the
    files' paths. Classes are numbered in the order of their names, as those of ``train`` are. Files of other types than
    JPEG, PNG, WebP and BMP (by suffix) are passed over, and a warning counts them; so are hidden files and folders, and
    ``__MACOSX``, without a word.

    Args:
      path: the folder.
      on_bad_image: see `cnnjax.data.files.open_files`.
      to_train: False, for a network that is trained already, holds nothing out of a folder without splits, and asks
        neither for two classes nor for a folder ``train``.
    Raises:
      DataError: no such folder, no classes, a class without images, two names of one class, a class that is tested and
        not trained, folders of which some are splits and some may be classes, or images that cannot be used.
    """
    root = local_path(path, "data_dir")
    if not root.is_dir():
        raise DataError(f"data directory {str(root)!r} is not a folder; give --data-dir the folder of the images")
    folders = _split_folders(root)
    least = 2 if to_train else 1
    others: Counter[str] = Counter()
    if not folders:
        names = _classes(root, least)
        _refuse_splits_in_classes(root, names)
        files = [file for number, name in enumerate(names) for file in _files(root, root / name, number, others)]
        splits = hold_out(files) if to_train else {WHOLE: files}
        _warn_of(others, root)
        return open_files("folder", root, splits, names, on_bad_image=on_bad_image)
    if "train" in folders:
        names = _classes(root / folders["train"], least)
    elif to_train:
        raise DataError(
            f"{str(root)!r} has folders of splits, {_listed(folders.values())}, and none to train on; name one "
            "'train', or give --data-dir the folder in which the classes are"
        )
    else:
        names = sorted({name for folder in folders.values() for name in _classes(root / folder, least)})
    splits = {}
    for split, folder in folders.items():
        own = _classes(root / folder, least=1)
        unknown = sorted(set(own) - set(names))
        if unknown:
            raise DataError(
                f"class folder {str(root / folder / unknown[0])!r} has no counterpart in "
                f"{str(root / folders['train'])!r}; a class must be trained to be tested"
            )
        splits[split] = [file for name in own for file in _files(root, root / folder / name, names.index(name), others)]
    _warn_of(others, root)
    return open_files("folder", root, splits, names, on_bad_image=on_bad_image)


def _split_of(name: str) -> str | None:
    """Return which split a folder of this name is, or None."""
    plain = re.sub(r"[ _-]?(set|data)$", "", name.strip().casefold())
    return SPLIT_FOLDERS.get(plain)


def _split_folders(root: Path) -> dict[str, str]:
    """Return the names of the folders of splits in ``root`` by split; none where its folders are classes.

    Raises:
      DataError: folders are splits and others may be classes, or two are one split.
    """
    folders = _folders(root)
    splits = [folder.name for folder in folders if _split_of(folder.name)]
    if not splits:
        return {}
    # Classes may be called so too: trains are vehicles. Then their images lie in them, and other classes beside them.
    others = [folder.name for folder in folders if not _split_of(folder.name) and _has_image(folder)]
    divided = [name for name in splits if _folders(root / name)]
    if others and not divided:
        return {}
    if others:
        raise DataError(
            f"{str(root)!r} has folders {_listed(splits)}, which read as splits, and {_listed(others)} beside them; "
            "splits need a folder of their own, as classes do: move or rename some, or name each image's class in a "
            "CSV file (--dataset csv)"
        )
    found: dict[str, str] = {}
    for name in splits:
        split = _split_of(name)
        assert split is not None
        if split in found:
            raise DataError(
                f"{str(root)!r} has two folders for the split {split!r}, {found[split]!r} and {name!r}; remove one"
            )
        if name not in divided:
            raise DataError(
                f"{str(root / name)!r} reads as a split and has no class folders; put its images into a folder "
                "a class, or name each image's class and split in a CSV file (--dataset csv)"
            )
        found[split] = name
    return found


def _refuse_splits_in_classes(root: Path, names: Sequence[str]) -> None:
    """Raise DataError where every class folder holds the splits, rather than every split the classes."""
    inner = [[folder.name for folder in _folders(root / name)] for name in names]
    if all("train" in map(_split_of, found) and all(map(_split_of, found)) for found in inner):
        raise DataError(
            f"each class folder of {str(root)!r} holds folders of splits ({_listed(inner[0])} in {names[0]!r}); "
            "put the classes into the splits: train/CLASS, test/CLASS"
        )


def _has_image(folder: Path) -> bool:
    return any(map(_is_image, _data_paths(folder)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and _is_data(entry.name))
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


def _is_data(name: str) -> bool:
    """Return whether a file or folder of this name may be data: it is not hidden, nor what an archiver left."""
    return not name.startswith(".") and name != NOT_DATA


def _data_paths(folder: Path) -> Iterator[str]:
    """Yield the paths of the files under a folder that may be data."""

    def refuse(error: OSError) -> None:
        raise DataError(f"folder {error.filename!r} cannot be read: {error.strerror or error}") from error

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = filter(_is_data, folders)
        yield from (os.path.join(where, name) for name in names if _is_data(name))


def _is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def _files(root: Path, folder: Path, label: int, others: Counter[str]) -> list[LabelledFile]:
    """Return the image files under a class's folder, and count the other files in ``others`` by suffix."""
    found, own = [], Counter[str]()
    for path in _data_paths(folder):
        if _is_image(path):
            found.append(LabelledFile(os.path.relpath(path, root), label))
        else:
            own[os.path.splitext(path)[1].lower()] += 1
    if not found:
        raise DataError(
            f"class folder {str(folder)!r} holds no image file ({', '.join(IMAGE_SUFFIXES)})"
            f"{f', but {_by_suffix(own)}' if own else ''}; remove it or fill it"
        )
    others.update(own)
    return found


def _by_suffix(files: Counter[str]) -> str:
    listed = [f"{count} {suffix or 'without a suffix'}" for suffix, count in files.most_common(5)]
    return ", ".join([*listed, *["..."][: len(files) > 5]])


def _warn_of(others: Counter[str], root: Path) -> None:
    """Say how many files are passed over: where a camera has another format, they may be most of the images."""
    if others:
        logger.warning(
            "files in %s that end in none of %s are passed over: %s",
            root,
            ", ".join(IMAGE_SUFFIXES),
            _by_suffix(others),
        )
