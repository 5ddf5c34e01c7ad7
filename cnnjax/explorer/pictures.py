"""Pictures to show a network: of its test set, of files, and of who looks at the page."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from cnnjax.data import load_dataset
from cnnjax.data.decode import decode_image, read_image
from cnnjax.data.source import Task
from cnnjax.runs import ImageFormat, Run


@dataclasses.dataclass(frozen=True)
class Examples:
    """Pictures that the page offers.

    Attributes:
      count: how many.
      read: number -> uint8[height, width, channels] of any size, and what is in it ("" if nobody says).
    """

    count: int
    read: Callable[[int], tuple[np.ndarray, str]]


def decode(data: bytes, expected: ImageFormat) -> np.ndarray:
    """Return the picture in a file, prepared.

    Raises:
      BadImage: it is no image file, damaged, or too large.
    """
    return expected.prepare(decode_image(data, len(expected.mean)))


def encode(pixels: np.ndarray) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format="png")
    return file.getvalue()


def examples_of_run(run: Run, data_dir: Path | None = None) -> Examples:
    """Return the test images of a run's data set.

    Args:
      run: the run.
      data_dir: where the data set is; None for where it was.
    Raises:
      DataError: the data set is not where it was.
    """
    config: dict[str, Any] = run.config
    data = load_dataset(
        config["dataset"],
        data_dir or config["data_dir"],
        # The oldest runs had no such flags.
        train_split=config.get("train_split", "train"),
        test_split=config.get("test_split"),
        on_bad_image=config.get("on_bad_image", "error"),
        tasks=get_args(Task),
    )

    def read(number: int) -> tuple[np.ndarray, str]:
        images, labels = data.test.read(np.array([number]))
        label = run.label_names[int(labels[0])] if run.task == "classification" else ""
        return np.asarray(images[0]), label

    return Examples(len(data.test), read)


def examples_of_files(paths: Sequence[Path], channels: int) -> Examples:
    """Return the pictures in files.

    Raises:
      ValueError: one of them is no image file.
      OSError: one cannot be read.
    """
    pictures = [read_image(path, channels) for path in paths]
    return Examples(len(pictures), lambda number: (pictures[number], ""))


def photographs() -> Examples:
    """Return the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    return Examples(len(pictures), lambda number: (pictures[number], ""))
