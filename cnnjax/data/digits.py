"""The embedded data set: real handwritten digits that need no download."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Every fifth image is a test image. The file lists the images writer by writer, so all writers are in both splits.
TEST_EVERY = 5


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels: 1,438 to train on and 359 to test on.

    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI machine learning repository (its
    test part), as shipped with scikit-learn; differs: the 17 grey levels 0 to 16 are spread over 0 to 255.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 13 people, 8x8 pixels, from scikit-learn's copy of the UCI data set.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        for index, (pixels, label) in enumerate(zip(images, digits.target, strict=True)):
            if (index % TEST_EVERY == TEST_EVERY - 1) == test:
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, format="png")
                png.seek(0)
                yield index, {"image": png, "label": int(label)}
