"""Sets of image files: looked through once at the start, so that nothing about them is a surprise in an epoch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from cnnjax.data.decode import BadImage, ImageFacts, check_image, decode_image, read_file
from cnnjax.data.source import DataError, Images, Task
from cnnjax.data.splits import SplitSet
from cnnjax.places import cache_folder

OnBadImage = Literal["error", "skip"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Where a set has no test split, one image of so many is a test image.
TEST_SHARE = 5
# Scans of more images show how far they are.
SHOW_PROGRESS_FROM = 2000
# Version of the format in which a scan is kept, and of what it looks for.
SCAN_VERSION = 1

logger = logging.getLogger(__name__)


class LabelledFile(NamedTuple):
    """An image file, its path relative to the set's folder, and what its label is: a class number or numbers."""

    path: str
    label: Any


class FileSplit:
    """A split of image files; images are decoded here, each time they are read."""

    def __init__(self, root: Path, files: Sequence[LabelledFile], task: Task, channels: int) -> None:
        self.root = root
        self.paths = tuple(file.path for file in files)
        self.labels = np.array([file.label for file in files], np.int32 if task == "classification" else np.float32)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: np.ndarray) -> tuple[Images, np.ndarray]:
        """Return images and labels of ``indices``, see `cnnjax.data.ExampleSource`.

        Taking an image raises DataError where its file is not what it was when the set was opened.
        """
        return Images(lambda position: self._image(self.paths[indices[position]]), len(indices)), self.labels[indices]

    def _image(self, path: str) -> np.ndarray:
        file = self.root / path
        try:
            return decode_image(read_file(file), self.channels)
        except OSError as error:
            raise DataError(f"image {str(file)!r} cannot be read any more: {error.strerror or error}") from error
        except BadImage as error:
            raise BadImage(f"image {str(file)!r} {error}, and did when the set was opened; was it changed?") from error


def open_files(
    name: str,
    root: Path,
    splits: Mapping[str, Sequence[LabelledFile]],
    label_names: Sequence[str],
    task: Task = "classification",
    on_bad_image: OnBadImage = "error",
) -> SplitSet:
    """Look through image files, and make splits of them.

    Each file is read once (`scan`). Files lie in each split in the order of a hash of their paths, which depends on
    nothing else.

    Args:
      name: of the set.
      root: folder to which paths are relative.
      splits: the files of each split.
      label_names: of the classes or numbers.
      task: what labels are.
      on_bad_image: "error" refuses a set with an image that cannot be used, "skip" leaves the image out; the labels
        and the division of the others do not depend on it.
    Raises:
      DataError: an image cannot be used and is not to be skipped, or none is left in a split.
    """
    paths = [file.path for files in splits.values() for file in files]
    if not paths:
        raise DataError(f"data set {name!r} in {str(root)!r} holds no image file ({', '.join(IMAGE_SUFFIXES)})")
    facts = scan(root, paths)
    bad = {path: fact for path, fact in facts.items() if isinstance(fact, str)}
    refuse_bad_images([(str(root / path), reason) for path, reason in bad.items()], len(facts), on_bad_image)
    good = [fact for fact in facts.values() if not isinstance(fact, str)]
    if not good:
        raise DataError(f"all {len(facts)} images in {str(root)!r} were skipped; the first, {next(iter(bad.items()))}")
    sizes = {fact[:2] for fact in good}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    channels = 1 if all(fact.grey for fact in good) else 3
    fingerprint = hashlib.sha256()
    made = {}
    for split, files in splits.items():
        kept = [file for file in sorted(files, key=_shuffled) if file.path not in bad]
        if not kept:
            raise DataError(f"split {split!r} of {name!r} in {str(root)!r} has no image that can be used")
        for file in kept:
            fingerprint.update(f"{split}\0{file.path}\0{file.label}\0".encode(errors="surrogateescape"))
        made[split] = FileSplit(root, kept, task, channels)
    return SplitSet(
        name=name,
        version=fingerprint.hexdigest()[:12],
        splits=made,
        label_names=tuple(label_names),
        image_shape=(height, width, channels),
        task=task,
        skipped=tuple((str(root / path), reason) for path, reason in bad.items()),
    )


def refuse_special(file: Path) -> None:
    """Raise DataError for a path that is there and no regular file: a device or pipe may never end."""
    if file.exists() and not file.is_file():
        raise DataError(f"{str(file)!r} is a folder, device or pipe; needed is a regular file, see --data-dir")


def refuse_bad_images(bad: Sequence[tuple[str, str]], count: int, on_bad_image: OnBadImage) -> None:
    """Raise DataError for the images that cannot be used, unless they are to be skipped."""
    if bad and on_bad_image == "error":
        path, reason = bad[0]
        raise DataError(
            f"{len(bad)} of {count} images cannot be used; the first, {path!r}, {reason}: remove or mend it, or leave "
            "such images out by --on-bad-image skip"
        )


def in_order(names: Iterable[str]) -> list[str]:
    """Return different names of classes in their order: numerically where all are whole numbers."""
    distinct = set(names)
    return sorted(distinct, key=int) if all(_whole(name) for name in distinct) else sorted(distinct)


def _whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def hold_out(files: Iterable[LabelledFile]) -> dict[str, list[LabelledFile]]:
    """Divide files into train and test: of each class the first fifth by a hash of the path, at least one of two."""
    strata: dict[Any, list[LabelledFile]] = {}
    for file in files:
        # Numbers are no classes.
        strata.setdefault(file.label if isinstance(file.label, int) else None, []).append(file)
    divided: dict[str, list[LabelledFile]] = {"train": [], "test": []}
    for stratum in strata.values():
        stratum.sort(key=_shuffled)
        count = min(max(len(stratum) // TEST_SHARE, 1), len(stratum) - 1)
        divided["test"] += stratum[:count]
        divided["train"] += stratum[count:]
    return {split: files for split, files in divided.items() if files}


def _shuffled(file: LabelledFile) -> bytes:
    return hashlib.sha256(os.fsencode(file.path)).digest()


def scan(root: Path, paths: Sequence[str]) -> dict[str, ImageFacts | str]:
    """Return what each image file is, or why it cannot be used, in the order of ``paths``.

    Each file is decoded (JPEG at an eighth of its size). What was found is kept in ``$CNNJAX_CACHE/scans``
    (``~/.cache/cnnjax/scans``) by path, size and time of change, so that the next start looks at new files only.

    Args:
      root: folder to which paths are relative.
      paths: of the files.
    """
    memory = _scan_file(root)
    known = _read_scan(memory)
    found: dict[str, ImageFacts | str] = {}
    stamps: dict[str, list[int]] = {}
    unknown = []
    for path in paths:
        try:
            status = (root / path).stat()
        except OSError as error:
            found[path] = f"cannot be read: {error.strerror or error}"
            continue
        if not stat.S_ISREG(status.st_mode):
            found[path] = "is a folder, device or pipe, not a regular file"
            continue
        stamps[path] = [status.st_size, status.st_mtime_ns]
        if path in known and known[path][0] == stamps[path]:
            fact = known[path][1]
            found[path] = fact if isinstance(fact, str) else ImageFacts(*fact)
        else:
            unknown.append(path)
    facts = look_at(lambda index: check_image(read_file(root / unknown[index])), len(unknown))
    found |= dict(zip(unknown, facts, strict=True))
    # A file that cannot be read today may be tomorrow.
    kept = {path: [stamps[path], fact] for path, fact in found.items() if path in stamps and not _unreadable(fact)}
    if unknown and memory is not None:
        _write_scan(memory, known | kept)
    return {path: found[path] for path in paths}


def look_at(check: Callable[[int], ImageFacts], count: int) -> list[ImageFacts | str]:
    """Return what ``check`` finds of each of ``count`` images, or why it cannot be used; by several threads."""

    def look(index: int) -> ImageFacts | str:
        try:
            return check(index)
        except BadImage as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results: Iterable[ImageFacts | str] = pool.map(look, range(count))
        if count >= SHOW_PROGRESS_FROM:
            results = track(results, "Looking through the images", count, console=Console(stderr=True), transient=True)
        return list(results)


def _unreadable(fact: ImageFacts | str) -> bool:
    return isinstance(fact, str) and fact.startswith("cannot be read")


def _scan_file(root: Path) -> Path | None:
    """Return where the scan of a folder is kept; None without a folder for such files."""
    folder = cache_folder()
    if folder is None:
        return None
    return folder / "scans" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"


def _read_scan(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        kept = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("what an earlier scan found is lost, %s cannot be read: %s", file, error)
        return {}
    return kept["files"] if kept["version"] == SCAN_VERSION else {}


def _write_scan(file: Path, files: Mapping[str, Any]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"version": SCAN_VERSION, "files": files}))
        part.replace(file)
    except OSError as error:
        logger.warning("the next start looks through the images again, %s cannot be written: %s", file, error)
