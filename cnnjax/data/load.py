"""From the name of a data set to the set, wherever it comes from."""

from __future__ import annotations

import os
import re
from typing import get_args

from cnnjax.buckets import fetch
from cnnjax.data.files import OnBadImage
from cnnjax.data.source import DataError, ExampleSource, ImageDataset, Section, Task
from cnnjax.data.splits import WHOLE, SplitSet, choose_splits
from cnnjax.places import local_path, url_of

# Sets whose --data-dir is the data itself.
FILE_SETS = ("folder", "csv", "npz")


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    train_split: str = "train",
    test_split: str | None = None,
    on_bad_image: OnBadImage = "error",
    tasks: tuple[Task, ...] = ("classification",),
) -> ImageDataset:
    """Open a set of labelled images.

    Args:
      name: ``digits`` or ``faces`` (``lfw_subset``), which scikit-learn and scikit-image bring, prepared on first use;
        any image-classification set of TFDS, with config and version as TFDS writes them (``cifar10:3.0.2``);
        ``folder``, see `cnnjax.data.folder.open_folder`; ``csv``, see `cnnjax.data.csv_file.open_csv`; ``npz``, see
        `cnnjax.data.npz_file.open_npz`.
      data_dir: for TFDS, the folder of prepared sets as TFDS lays it out, None for its own (``~/tensorflow_datasets``);
        for others, the folder of images or the file. What is in a bucket (gs://...) is copied first, see
        `cnnjax.buckets`.
      train_split, test_split: what to train and test on, see `cnnjax.data.splits.choose_splits`.
      on_bad_image: "error" refuses images that cannot be used, in file sets now and in TFDS sets when they are read;
        "skip" finds them now (of a TFDS set, by reading all of it) and leaves them out.
      tasks: those that the caller can train for; sets for other tasks are refused.
    Raises:
      DataError: no such data set, folder, file or split; not prepared and TensorFlow (which prepares) missing, prepared
        in another file format than array_record; bad images or labels; a set for another task.
    """
    if on_bad_image not in get_args(OnBadImage):
        raise DataError(f"on_bad_image must be one of {', '.join(get_args(OnBadImage))}, got {on_bad_image!r}")
    if name == "photos":
        raise DataError("data set 'photos' has no labels to classify; experiments/denoise.py restores photographs")
    data = _open(name, data_dir, on_bad_image)
    if data.task not in tasks:
        needed = " or ".join(tasks)
        raise DataError(f"data set {name!r} in {str(data_dir)!r} is for {data.task}; needed is one for {needed}")
    return _dataset(data, *choose_splits(data, train_split, test_split))


def load_to_test(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    train_split: str = "train",
    test_split: str | None = None,
    on_bad_image: OnBadImage = "error",
) -> ImageDataset:
    """Open a set of image files for a network that is trained already.

    What has no splits of its own is tested whole, and may be of one class; what has no split to train on needs none.

    Args:
      name: one of ``FILE_SETS``.
      data_dir, train_split, test_split, on_bad_image: see `load_dataset`.
    Returns:
      The set; its ``train`` is the first example of ``test``, since it has to have one.
    Raises:
      DataError: see `load_dataset`.
    """
    data = _open(name, data_dir, on_bad_image, to_train=False)
    if "train" in data.splits:
        _, test = choose_splits(data, train_split, test_split)
    else:
        test = next(data.splits[split] for split in (WHOLE, "test", "validation") if split in data.splits)
    return _dataset(data, Section(test, 0, 1), test)


def _dataset(data: SplitSet, train: ExampleSource, test: ExampleSource) -> ImageDataset:
    return ImageDataset(
        name=data.name,
        version=data.version,
        train=train,
        test=test,
        label_names=data.label_names,
        image_shape=data.image_shape,
        task=data.task,
        skipped=data.skipped,
    )


def _open(
    name: str, data_dir: str | os.PathLike[str] | None, on_bad_image: OnBadImage, *, to_train: bool = True
) -> SplitSet:
    if name in FILE_SETS:
        if data_dir is None:
            what = "the folder of the images" if name == "folder" else f"the .{name} file"
            raise DataError(f"data set {name!r} needs --data-dir: {what}")
        data_dir = local_path(data_dir, "data_dir", buckets=True)
        # The images of a table lie beside it.
        fetch(data_dir.parent if name == "csv" else data_dir)
        if name == "folder":
            from cnnjax.data.folder import open_folder

            return open_folder(data_dir, on_bad_image, to_train=to_train)
        if name == "csv":
            from cnnjax.data.csv_file import open_csv

            return open_csv(data_dir, on_bad_image, to_train=to_train)
        from cnnjax.data.npz_file import open_npz

        return open_npz(data_dir, on_bad_image, to_train=to_train)
    from cnnjax.data.tfds_sets import open_tfds

    if data_dir is not None:
        data_dir = local_path(data_dir, "data_dir", buckets=True)
        if url_of(data_dir) is not None:
            data_dir.mkdir(parents=True, exist_ok=True)
            fetch(data_dir / re.split("[/:]", name)[0])
    return open_tfds(name, data_dir, on_bad_image)
