"""Augmented sets on disk: readable like any other, resumable, and made by their recipe alone."""

import json

import numpy as np
import pytest

from cnnjax.data import ArraySplit, DataError, ImageDataset, load_dataset
from cnnjax.data.offline import Recipe, write_augmented

RANDOM = np.random.default_rng(0)


def images(count):
    return RANDOM.integers(0, 256, (count, 6, 5, 3), np.uint8)


TRAIN, TEST = ArraySplit(images(11), np.arange(11, dtype=np.int32) % 3), ArraySplit(images(4), np.zeros(4, np.int32))
DATASET = ImageDataset("shapes", "1.2.0", TRAIN, TEST, ("a", "b", "c"), (6, 5, 3))
RECIPE = Recipe(dataset="shapes", version="1.2.0", augment=("mirror:1",), copies=2, shard_size=8)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    return path, write_augmented(DATASET, RECIPE, path, "shapes_augmented")


def test_a_written_set_holds_originals_and_copies_and_the_test_images(written):
    dataset = load_dataset("shapes_augmented", written[0])
    assert (len(dataset.train), len(dataset.test)) == (33, 4)
    assert dataset.label_names == ("a", "b", "c")
    assert dataset.image_shape == (6, 5, 3)
    pixels, labels = dataset.train.read(np.arange(33))
    pixels = np.stack(list(pixels))
    found = sorted((image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True))
    mirrored = TRAIN.images[:, :, ::-1]
    expected = [*zip(TRAIN.images, TRAIN.labels, strict=True), *zip(mirrored, TRAIN.labels, strict=True)]
    expected += zip(mirrored, TRAIN.labels, strict=True)
    assert found == sorted((image.tobytes(), int(label)) for image, label in expected)
    assert not (pixels[:11] == TRAIN.images).all((1, 2, 3)).all()
    np.testing.assert_array_equal(np.stack(list(dataset.test.read(np.arange(4))[0])), TEST.images)


def test_the_recipe_is_kept(written):
    recipe = json.loads((written[1] / "recipe.json").read_text())
    assert recipe["augment"] == ["mirror:1"]
    assert (recipe["dataset"], recipe["version"], recipe["copies"], recipe["seed"]) == ("shapes", "1.2.0", 2, 0)


def test_an_interrupted_writing_goes_on(written, tmp_path):
    def stop(done, total):
        assert total == 6
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        write_augmented(DATASET, RECIPE, tmp_path, "shapes_augmented", stop)
    folder = tmp_path / "shapes_augmented" / "1.0.0"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record-*")}
    assert len(before) == 3
    # What a process that was killed leaves is written anew.
    (folder / "shapes_augmented-train.array_record-00003-of-00005.draft").write_bytes(b"half")
    write_augmented(DATASET, RECIPE, tmp_path, "shapes_augmented")
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record-*")}
    assert len(after) == 6
    assert before.items() <= after.items()
    whole = load_dataset("shapes_augmented", written[0]).train.read(np.arange(33))
    resumed = load_dataset("shapes_augmented", tmp_path).train.read(np.arange(33))
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_recipe_is_refused_with_the_difference(written):
    other = Recipe(dataset="shapes", version="1.2.0", augment=("mirror:1",), copies=3, seed=1, shard_size=8)
    with pytest.raises(DataError, match="another recipe: copies 2 there, 3 now; seed 0 there, 1 now"):
        write_augmented(DATASET, other, written[0], "shapes_augmented")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": ("mixup",)}, "'mixup' gives an image two labels"),
        ({"augment": ("background",)}, "needs to know the foreground"),
        ({"augment": ("miror",)}, "unknown augmentation 'miror'"),
        ({"copies": -1}, "copies must be at least 0, got -1"),
        ({"copies": 0, "keep_originals": False}, "copies must be at least 1"),
        ({"shard_size": 0}, "shard_size must be at least 1"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**({"dataset": "shapes", "version": "1.2.0", "augment": ()} | changes))


def test_names_that_tfds_knows_or_refuses_are_refused(tmp_path):
    for name, message in (("Shapes-2", "small letters"), ("mnist", "is a data set that there is")):
        with pytest.raises(DataError, match=message):
            write_augmented(DATASET, RECIPE, tmp_path, name)
