"""Augmentation before training: a data set with augmented copies of its images, written to disk once.

The result is a TFDS set of array_record files, which `cnnjax.data.load_dataset` and TFDS read as they read any other.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cnnjax.data.augment import Background, CutMix, Mixup, MixupOrCutMix, augment, parse_all
from cnnjax.data.source import DataError, ExampleSource, ImageDataset
from cnnjax.data.transforms import RESIZE_RATIO, ResizeAndCentreCrop, Stretch
from cnnjax.places import local_path

VERSION = "1.0.0"
# Images that go through the device at once: even, so that neighbours stay together.
BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an augmented set is made of; ``recipe.json`` in its folder holds it.

    The same recipe gives the same files, however often the writing was interrupted.

    Attributes:
      dataset, version, train_split, test_split: of the original, see `cnnjax.data.load_dataset`.
      augment: specs, see `cnnjax.data.augment.parse`.
      copies: augmented copies of each training image.
      keep_originals: write the training images themselves too.
      image_size: height and width that images are brought to, pixels; None leaves them.
      seed: of the draws and of the order.
      shard_size: examples per file.
    """

    dataset: str
    version: str
    train_split: str = "train"
    test_split: str | None = None
    augment: tuple[str, ...]
    copies: int = 1
    keep_originals: bool = True
    image_size: int | None = None
    seed: int = 0
    shard_size: int = 1024

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        for name, least in (("copies", 0), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.copies + self.keep_originals == 0:
            raise DataError("copies must be at least 1 if the originals are left out, got 0")
        for spec, operation in zip(self.augment, parse_all(self.augment), strict=True):
            if isinstance(operation, Mixup | CutMix | MixupOrCutMix):
                raise DataError(f"{spec!r} gives an image two labels, and a set of classes holds one; mix in training")
            if isinstance(operation, Background):
                raise DataError(f"{spec!r} needs to know the foreground, which a set of classes does not say")

    def to_json(self) -> dict[str, Any]:
        """Return the recipe, and the version of JAX, by which its draws are made."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return fields | {"jax": jax.__version__}


def write_augmented(
    dataset: ImageDataset,
    recipe: Recipe,
    data_dir: str | os.PathLike[str],
    name: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write a set with augmented copies of the training images of ``dataset``; its test images stay as they are.

    Files appear when they are complete, and those that are there are not written again: the same call goes on where
    one was interrupted.

    Args:
      dataset: a set of classes.
      recipe: of that set.
      data_dir: folder of TFDS sets.
      name: of the new set, in small letters and underscores.
      report: called with the number of files that are there and that there will be.
    Returns:
      The folder of the new set.
    Raises:
      DataError: a name that TFDS refuses or knows, images that differ in size without ``image_size``, a set that is
        none of classes, or another recipe in the folder.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(f"name must be of small letters, digits and underscores, as TFDS asks, got {name!r}")
    if name == dataset.name or name in tfds.list_builders(with_community_datasets=False):
        raise DataError(f"{name!r} is a data set that there is; give the augmented one another name")
    if dataset.task != "classification":
        raise DataError(f"{dataset.name} is for {dataset.task}; sets of classes can be written")
    height, width, channels = dataset.image_shape
    if recipe.image_size is not None:
        fixed = height is not None and width is not None
        size = recipe.image_size
        transform: Any = Stretch(size) if fixed else ResizeAndCentreCrop(round(size * RESIZE_RATIO), size)
        height = width = size
    elif height is None or width is None:
        raise DataError(f"images of {dataset.name} differ in size; give an image_size")
    else:
        transform = None
    folder = local_path(data_dir, "data_dir") / name / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, recipe)

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(height, width, channels), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(dataset.label_names)),
        }
    )
    first = 0 if recipe.keep_originals else 1
    examples = len(dataset.train) * (recipe.copies + 1 - first)
    order = np.random.default_rng(recipe.seed).permutation(examples) + first * len(dataset.train)
    plans = {"train": (dataset.train, order), "test": (dataset.test, np.arange(len(dataset.test)))}
    operations = parse_all(recipe.augment)
    change = jax.jit(lambda images, keys: augment({"image": images}, keys, operations)["image"])
    seed = jax.random.key(recipe.seed)
    # A key for each copy, and from it for each image.
    derive = jax.jit(jax.vmap(lambda copy, index: jax.random.fold_in(jax.random.fold_in(seed, copy), index)))

    total = sum(-(-len(places) // recipe.shard_size) for _, places in plans.values())
    done = 0
    splits = []
    for split, (source, places) in plans.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
        )
        shards = [places[start : start + recipe.shard_size] for start in range(0, len(places), recipe.shard_size)]
        for number, shard in enumerate(shards):
            report(done, total)
            path = Path(template.sharded_filepath(shard_index=number, num_shards=len(shards)))
            if not path.exists():
                _write_shard(path, features, _examples(source, shard, transform, derive, change))
            done += 1
        lengths = [len(shard) for shard in shards]
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0, filename_template=template))
    report(done, total)
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        description=f"{dataset.name} {dataset.version} with augmented copies, see recipe.json.",
        check_data=False,
    )
    return folder


def _claim(folder: Path, recipe: Recipe) -> None:
    """Write the recipe into a new folder; refuse the folder of another one."""
    file = folder / "recipe.json"
    ours = recipe.to_json()
    if file.exists():
        theirs = json.loads(file.read_text())
        different = [
            f"{key} {theirs.get(key)} there, {ours.get(key)} now"
            for key in sorted(theirs.keys() | ours.keys())
            if theirs.get(key) != ours.get(key)
        ]
        if different:
            raise DataError(f"{folder} holds a set of another recipe: {'; '.join(different)}; give another name")
        return
    if any(folder.iterdir()):
        raise DataError(f"{folder} holds files and no recipe.json; give another name")
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(ours, indent=1) + "\n")
    draft.replace(file)


def _examples(
    source: ExampleSource, places: np.ndarray, transform: Any, derive: Any, change: Any
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield image and label of each place: a copy's number times the length of the source, plus an index."""
    for start in range(0, len(places), BATCH):
        copies, indices = np.divmod(places[start : start + BATCH], len(source))
        images, labels = source.read(indices)
        pixels = np.stack([image if transform is None else transform(image) for image in images])
        if copies.any():
            # Always as many, so that the program is compiled once.
            missing = BATCH - len(pixels)
            keys = derive(*(np.pad(numbers, (0, missing)).astype(np.uint32) for numbers in (copies, indices)))
            changed = np.asarray(change(np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))), keys))[: len(pixels)]
            pixels = np.where(copies[:, None, None, None] > 0, changed, pixels)
        yield from zip(pixels, labels.tolist(), strict=True)


def _write_shard(path: Path, features: Any, examples: Iterator[tuple[np.ndarray, int]]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    draft = path.with_name(f"{path.name}.draft")
    writer = ArrayRecordWriter(str(draft), "group_size:1")
    for pixels, label in examples:
        png = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, format="png")
        png.seek(0)
        writer.write(features.serialize_example(features.encode_example({"image": png, "label": label})))
    writer.close()
    draft.replace(path)
