"""TFDS data sets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.decode import BadImage, ImageFacts, check_image, decode_image
from cnnjax.data.files import OnBadImage, look_at
from cnnjax.data.source import DataError, ExampleSource, Images, Selection
from cnnjax.data.splits import SplitSet
from cnnjax.places import home_folder, local_path

# Sets that need no download, by the package they come with.
EMBEDDED = {"digits": "sklearn", "lfw_subset": "skimage"}
OTHER_NAMES = {"faces": "lfw_subset"}


class TfdsSplit:
    """A split of a prepared TFDS data set; images are decoded here, each time they are read."""

    def __init__(self, source: Any, description: str, channels: int, num_classes: int) -> None:
        self._source = source
        self._description = description
        self._channels = channels
        self._num_classes = num_classes

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: np.ndarray) -> tuple[Images, np.ndarray]:
        """Return images and labels of ``indices``, see `cnnjax.data.ExampleSource`.

        Taking an image raises DataError where it cannot be decoded.

        Raises:
          DataError: a label is no class (TFDS writes -1 where labels are secret).
        """
        examples = self._source.__getitems__([int(index) for index in indices])
        for index, example in zip(indices, examples, strict=True):
            if not 0 <= example["label"] < self._num_classes:
                raise DataError(
                    f"label {example['label']} of image {index} of {self._description} is not from 0 to "
                    f"{self._num_classes - 1}; take a split that has labels"
                )

        def image(position: int) -> np.ndarray:
            try:
                return decode_image(examples[position]["image"], self._channels)
            except BadImage as error:
                what = f"image {indices[position]} of {self._description}"
                raise BadImage(
                    f"{what} {error}; take it out of the set, or leave it out by --on-bad-image skip"
                ) from error

        return Images(image, len(indices)), np.array([example["label"] for example in examples], np.int32)

    def check(self, index: int) -> ImageFacts:
        """Return what image ``index`` is, or raise BadImage."""
        return check_image(self._source[index]["image"])


def open_tfds(
    name: str, data_dir: str | os.PathLike[str] | None = None, on_bad_image: OnBadImage = "error"
) -> SplitSet:
    """Open an image-classification set of TFDS, and prepare it first if need be; see `cnnjax.data.load_dataset`."""
    import tensorflow_datasets as tfds

    # They register themselves under their names.
    from cnnjax.data.digits import Digits  # noqa: F401
    from cnnjax.data.faces import LfwSubset  # noqa: F401

    name = OTHER_NAMES.get(name, name)
    if data_dir is None:
        if home_folder() is None and "TFDS_DATA_DIR" not in os.environ:
            raise DataError(
                f"data set {name!r} is looked for in ~/tensorflow_datasets, and there is no home folder; give a "
                "--data-dir, or set HOME"
            )
    else:
        data_dir = local_path(data_dir, "data_dir")
        if any(character in str(data_dir.absolute()) for character in "*?"):
            raise DataError(f"data directory {str(data_dir)!r} must not hold * or ?, which TFDS takes for a pattern")
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
    height, width, channels = features["image"].shape
    if channels is None:
        channels = 3
    names = tuple(features["label"].names)
    decoders = {"image": tfds.decode.SkipDecoding()}
    splits: dict[str, ExampleSource] = {}
    skipped: list[tuple[str, str]] = []
    for split in builder.info.splits:
        description = f"split {split!r} of {name}"
        source = TfdsSplit(builder.as_data_source(split, decoders=decoders), description, channels, len(names))
        splits[split] = source
        if on_bad_image == "skip":
            facts = look_at(source.check, len(source))
            bad = {index: fact for index, fact in enumerate(facts) if isinstance(fact, str)}
            skipped += [(f"image {index} of {description}", reason) for index, reason in bad.items()]
            if bad:
                splits[split] = Selection(source, np.setdiff1d(np.arange(len(source)), list(bad)))
    return SplitSet(
        name=name,
        version=str(builder.version),
        splits=splits,
        label_names=names,
        image_shape=(height, width, channels),
        skipped=tuple(skipped),
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
    except AssertionError as error:
        # Where the version does not exist, TFDS names those that do.
        raise DataError(f"data set {name!r}: {str(error).splitlines()[0]}") from error
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
    # A version and a config may be part of the name.
    package = EMBEDDED.get(builder.name)
    if package == "skimage" and importlib.util.find_spec("skimage") is None:
        raise DataError("data set 'lfw_subset' comes with scikit-image; pip install scikit-image")
    if package is None and importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"data set {name!r} is not prepared in {builder.data_dir}, and preparing it needs TensorFlow: "
            f"pip install 'cnnjax[tf]' and then run {_preparation(name)}; or give the --data-dir where it lies"
        )
    try:
        config = builder.builder_config and builder.builder_config.name
        version = str(builder.version)
        type(builder)(
            data_dir=builder.data_dir_root, config=config, version=version, file_format="array_record"
        ).download_and_prepare()
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
