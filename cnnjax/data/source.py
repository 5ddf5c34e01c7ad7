"""Where examples come from: TFDS data sets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

# Bytes of decoded images, all splits together, up to which a data set is kept in memory.
DEFAULT_MEMORY_BUDGET = 2 << 30

# Sets that need no download.
EMBEDDED = ("digits", "lfw_subset")


class DataError(ValueError):
    """A data set that cannot be used, and what to do about it."""


class ExampleSource(Protocol):
    """A split with random access."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images (uint8[height, width, channels] each) and labels (int32) of ``indices``."""


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """An image-classification data set.

    Attributes:
      name, version: as TFDS names it.
      train, test: its splits; what TFDS calls ``validation`` stands in for a missing ``test``.
      label_names: one name a class.
      image_shape: height, width and channels; height and width are None where images differ in size.
    """

    name: str
    version: str
    train: ExampleSource
    test: ExampleSource
    label_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    def first(self, train_examples: int | None = None, test_examples: int | None = None) -> ImageDataset:
        """Return the data set with only the first examples of its splits (TFDS shuffles them when it prepares a set).

        Args:
          train_examples, test_examples: how many; None for all.
        Raises:
          DataError: fewer than 1, or more than there are.
        """
        return dataclasses.replace(
            self,
            train=_first(self.train, train_examples, "train_examples"),
            test=_first(self.test, test_examples, "test_examples"),
        )


def _first(source: ExampleSource, count: int | None, name: str) -> ExampleSource:
    if count is None:
        return source
    if not 1 <= count <= len(source):
        raise DataError(f"{name} must be from 1 to {len(source)}, the number of images there are, got {count}")
    return Section(source, 0, count)


@dataclasses.dataclass(frozen=True)
class Section:
    """The examples of ``source`` from ``start`` to before ``stop``."""

    source: ExampleSource
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray]:
        """Return images (uint8[height, width, channels] each) and labels (int32) of ``indices``."""
        return self.source.read(np.asarray(indices) + self.start)


def load_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> ImageDataset:
    """Open an image-classification data set, and prepare it first if need be.

    Args:
      name: ``digits`` or ``lfw_subset`` (embedded in scikit-learn and scikit-image, prepared on first use), or any
        image-classification data set of TFDS.
      data_dir: folder of prepared data sets, as TFDS lays it out; None for TFDS's own (``~/tensorflow_datasets``).
    Raises:
      DataError: no such data set, no such folder, not prepared and TensorFlow (which prepares) missing, prepared in
        another file format than array_record, or not a set of images with one label each.
    """
    import tensorflow_datasets as tfds

    # They register themselves under their names.
    from cnnjax.data.digits import Digits  # noqa: F401
    from cnnjax.data.faces import LfwSubset  # noqa: F401

    if data_dir is not None:
        data_dir = Path(data_dir).expanduser()
        if not data_dir.is_dir():
            raise DataError(f"data directory {str(data_dir)!r} is not a folder; create it, or give another --data-dir")
        if not os.access(data_dir, os.R_OK | os.X_OK):
            raise DataError(f"data directory {str(data_dir)!r} cannot be read; change its permissions (chmod u+rx)")
    with _quiet_tfds():
        builder = _builder(tfds, name, data_dir)
    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or not {"image", "label"} <= set(features):
        raise DataError(f"data set {name!r} has features {sorted(features)}; needed are 'image' and 'label'")
    if not isinstance(features["label"], tfds.features.ClassLabel):
        raise DataError(f"data set {name!r} has labels of type {type(features['label']).__name__}, not one class each")
    splits = builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test is None:
        raise DataError(f"data set {name!r} has splits {sorted(splits)}; needed are 'train' and 'test' or 'validation'")
    height, width, channels = features["image"].shape
    if channels is None:
        channels = 3
    return ImageDataset(
        name=name,
        version=str(builder.version),
        train=TfdsSplit(tfds, builder, "train", channels),
        test=TfdsSplit(tfds, builder, test, channels),
        label_names=tuple(features["label"].names),
        image_shape=(height, width, channels),
    )


def _builder(tfds: Any, name: str, data_dir: Path | None) -> Any:
    """Return the prepared TFDS builder of ``name``."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "tfds.list_builders() lists what there is"
        raise DataError(f"unknown data set {name!r}; {hint}") from error
    except ModuleNotFoundError as error:
        raise DataError(
            f"the definition of data set {name!r} needs the package {error.name or 'tensorflow'}; "
            f"pip install {error.name or 'tensorflow'}"
        ) from error
    if not builder.is_prepared():
        _prepare(builder, name)
        builder = tfds.builder(name, data_dir=data_dir)
    file_format = builder.info.file_format
    if file_format is None or file_format.value != "array_record":
        raise DataError(
            f"data set {name!r} in {builder.data_dir} is stored as {file_format and file_format.value}, which has no "
            f"random access; prepare it again into another folder: {_preparation(name)}"
        )
    return builder


def _prepare(builder: Any, name: str) -> None:
    if name == "lfw_subset" and importlib.util.find_spec("skimage") is None:
        raise DataError("data set 'lfw_subset' comes with scikit-image; pip install scikit-image")
    if name not in EMBEDDED and importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"data set {name!r} is not prepared in {builder.data_dir}, and preparing it needs TensorFlow: "
            f"pip install 'cnnjax[tf]' and then run {_preparation(name)}; or give the --data-dir where it lies"
        )
    try:
        type(builder)(data_dir=builder.data_dir_root, file_format="array_record").download_and_prepare()
    except OSError as error:
        raise DataError(f"could not prepare data set {name!r} in {builder.data_dir}: {error}") from error


def _preparation(name: str) -> str:
    return (
        f'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='DIR', file_format='array_record').download_and_prepare()\""
    )


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keep off the screen what TFDS says while it looks for a set and prepares a small one."""
    import tensorflow_datasets as tfds

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logger.setLevel(level)


class TfdsSplit:
    """A split of a prepared TFDS data set; images are decoded here, with Pillow, each time they are read."""

    def __init__(self, tfds: Any, builder: Any, split: str, channels: int) -> None:
        decoders = {"image": tfds.decode.SkipDecoding()}
        self._source = builder.as_data_source(split, decoders=decoders)
        self._channels = channels
        self.split = split

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Return images (uint8[height, width, channels] each) and labels (int32) of ``indices``."""
        examples = self._source.__getitems__([int(index) for index in indices])
        images = [decode_image(example["image"], self._channels) for example in examples]
        return images, np.array([example["label"] for example in examples], np.int32)


class ArraySplit:
    """A split that lies decoded in memory.

    Attributes:
      images: uint8[examples, height, width, channels].
      labels: int32[examples].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        if len(images) != len(labels):
            raise DataError(f"there are {len(images)} images but {len(labels)} labels")
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (uint8[examples, height, width, channels]) and labels (int32) of ``indices``."""
        return self.images[indices], self.labels[indices]


def decode_image(data: bytes, channels: int) -> np.ndarray:
    """Decode a JPEG, PNG or other image file that Pillow reads to uint8[height, width, channels] (1: grey, 3: RGB)."""
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise DataError(f"images of {channels} channels cannot be decoded; 1 (grey), 3 (RGB) and 4 (RGBA) can")
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert(modes[channels]))
    return pixels[..., None] if channels == 1 else pixels


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8[h, w, channels] to [height, width, channels], bilinear and antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return resized.reshape(height, width, pixels.shape[-1])


def to_memory(source: ExampleSource, height: int, width: int, batch: int = 1024) -> ArraySplit:
    """Decode a whole split once, and resize it."""
    images = []
    labels = []
    for start in range(0, len(source), batch):
        pixels, label = source.read(np.arange(start, min(start + batch, len(source))))
        images.append(np.stack([resize(image, height, width) for image in pixels]))
        labels.append(label)
    return ArraySplit(np.concatenate(images), np.concatenate(labels))
