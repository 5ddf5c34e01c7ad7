"""A small set of real photographs that needs no download: faces and other things."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# Every fifth image is a test image.
TEST_EVERY = 5
FACES = 100


class LfwSubset(tfds.core.GeneratorBasedBuilder):
    """100 faces and 100 pictures of other things, grey, 25x25 pixels: 160 to train on and 40 to test on.

    Source: Huang et al. 2007, "Labeled Faces in the Wild", University of Massachusetts technical report 07-49, as
    scikit-image ships a part of it (the other pictures are of backgrounds); differs: levels are rounded to 256.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="100 faces and 100 pictures of other things, 25x25 pixels, from scikit-image.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(25, 25, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["other", "face"]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://vis-www.cs.umass.edu/lfw/",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        from skimage.data import lfw_subset

        images = np.round(lfw_subset() * 255).astype(np.uint8)
        for index, pixels in enumerate(images):
            if (index % TEST_EVERY == TEST_EVERY - 1) == test:
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, format="png")
                png.seek(0)
                yield index, {"image": png, "label": int(index < FACES)}
