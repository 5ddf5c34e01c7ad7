"""Folders of images, one sub-folder a class."""

import os

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataError, DataPipeline, load_dataset
from cnnjax.data import files as files_module


def colours(source):
    """Return the first pixel of each image of a split, and its label."""
    images, labels = source.read(np.arange(len(source)))
    return [(tuple(int(v) for v in image[0, 0]), int(label)) for image, label in zip(images, labels, strict=True)]


def test_train_and_test_folders(tmp_path, write_image, caplog):
    for suffix, options in ((".png", {}), (".webp", {"lossless": True}), (".bmp", {}), (".JPG", {"format": "jpeg"})):
        write_image(tmp_path / "train" / "cat" / f"image{suffix}", (0, 0, 0), **options)
    write_image(tmp_path / "train" / "dog" / "deep" / "er" / "image.png", (255, 255, 255))
    write_image(tmp_path / "val" / "dog" / "image.png", (255, 255, 255), size=(3, 3))
    for name in ("notes.txt", "1.HEIC", "2.heic"):
        (tmp_path / "train" / "dog" / name).write_text("passed over")
    (tmp_path / "train" / "dog" / ".hidden.png").write_text("passed over")
    (tmp_path / "train" / ".hidden").mkdir()
    data = load_dataset("folder", tmp_path)
    assert data.label_names == ("cat", "dog")
    assert data.image_shape == (None, None, 3)
    assert sorted(colours(data.train)) == [((0, 0, 0), 0)] * 4 + [((255, 255, 255), 1)]
    assert colours(data.test) == [((255, 255, 255), 1)]
    assert (data.task, data.skipped) == ("classification", ())
    (warning,) = caplog.messages
    assert warning.endswith("are passed over: 2 .heic, 1 .txt")


def test_without_a_train_folder_a_fifth_of_each_class_is_for_testing(tmp_path, write_image):
    for label, name in enumerate(("a", "b")):
        for number in range(10):
            write_image(tmp_path / name / f"{number}.png", (label, number, 0))
    first, again = (load_dataset("folder", tmp_path) for _ in range(2))
    assert [np.bincount(split.labels).tolist() for split in (first.train, first.test)] == [[8, 8], [2, 2]]
    assert colours(first.train) == colours(again.train)
    assert first.version == again.version
    assert {colour[0] for colour, _ in colours(first.train) + colours(first.test)} == {0, 1}
    # Classes lie mixed, so that the first examples are of several.
    assert set(first.train.labels[:6]) == {0, 1}
    # Equally large images fit into memory, and their size is known.
    assert first.image_shape == (6, 8, 3)
    # One image more: another set, and nothing moves from one split to the other but what makes room for it.
    before = set(first.test.paths)
    write_image(tmp_path / "a" / "new.png")
    later = load_dataset("folder", tmp_path)
    assert later.version != first.version
    assert len(before - set(later.test.paths)) <= 1


def test_grey_images_have_one_channel(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("L", (4, 4), number).save(tmp_path / name / f"{number}.png")
    assert load_dataset("folder", tmp_path).image_shape == (4, 4, 1)


def test_batches_of_a_folder(tmp_path, write_image):
    for label, name in enumerate(("a", "b")):
        for number in range(6):
            write_image(tmp_path / name / f"{number}.png", (100 * label, 0, 0), size=(9 + number, 12))
    pipeline = DataPipeline.create(load_dataset("folder", tmp_path), 8)
    for batch in pipeline.train_batches(4, 5, seed=0):
        assert batch["image"].shape == (4, 8, 8, 3)
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], 100 * batch["label"])


def test_scans_are_kept_and_renewed_where_files_change(tmp_path, write_image, monkeypatch):
    for name in ("a", "b"):
        for number in range(3):
            write_image(tmp_path / name / f"{number}.png")
    looked = []
    check = files_module.check_image
    monkeypatch.setattr(files_module, "check_image", lambda data: looked.append(len(data)) or check(data))
    load_dataset("folder", tmp_path)
    assert len(looked) == 6
    load_dataset("folder", tmp_path)
    assert len(looked) == 6
    (tmp_path / "a" / "1.png").write_text("no image any more")
    with pytest.raises(DataError, match=r"1 of 6 images cannot be used.*a/1\.png', is not an image"):
        load_dataset("folder", tmp_path)
    assert len(looked) == 7
    # What was found is remembered with its reason.
    with pytest.raises(DataError, match=r"1 of 6 images cannot be used.*a/1\.png', is not an image"):
        load_dataset("folder", tmp_path)
    assert len(looked) == 7


def test_a_scan_that_cannot_be_kept_is_said(tmp_path, write_image, monkeypatch, caplog):
    write_image(tmp_path / "images" / "a" / "1.png")
    write_image(tmp_path / "images" / "b" / "1.png")
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    write_image(tmp_path / "images" / "b" / "2.png")
    load_dataset("folder", tmp_path / "images", train_split="train", test_split="train[:1]")
    assert "looks through the images again" in caplog.text


def test_an_empty_class_folder(tmp_path, write_image):
    write_image(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"class folder '.*/b' holds no image file \(\.jpg.*remove it or fill it"):
        load_dataset("folder", tmp_path)


def test_class_names_that_look_the_same(tmp_path, write_image):
    for name in ("caf\u00e9", "cafe\u0301"):
        write_image(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="differ in invisible characters only; put their images together"):
        load_dataset("folder", tmp_path)


def test_upper_and_lower_case_are_two_classes(tmp_path, write_image):
    for name in ("a", "A"):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png")
    assert load_dataset("folder", tmp_path).label_names == ("A", "a")


def test_classes_that_are_tested_and_not_trained(tmp_path, write_image):
    for path in ("train/a", "train/b", "test/a", "test/c"):
        write_image(tmp_path / path / "1.png")
    with pytest.raises(DataError, match=r"class folder '.*test/c' has no counterpart"):
        load_dataset("folder", tmp_path)


def test_two_folders_for_one_split(tmp_path, write_image):
    for path in ("train/a", "train/b", "val/a", "val/b", "validation/a", "validation/b"):
        write_image(tmp_path / path / "1.png")
    with pytest.raises(DataError, match="two folders for the split 'validation'"):
        load_dataset("folder", tmp_path)


def test_folders_that_are_none(tmp_path, write_image):
    with pytest.raises(DataError, match="'folder' needs --data-dir: the folder of the images"):
        load_dataset("folder")
    with pytest.raises(DataError, match="is not a folder; give --data-dir"):
        load_dataset("folder", tmp_path / "none")
    write_image(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="has 1 class folders, needed are 2 or more"):
        load_dataset("folder", tmp_path)


def test_a_folder_that_cannot_be_listed(tmp_path, write_image, monkeypatch):
    # The superuser may read everything, so permissions themselves cannot be relied on here.
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "b" / "1.png")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"folder '.*/b' cannot be read: Permission denied"):
        load_dataset("folder", tmp_path)


@pytest.mark.parametrize(
    "names", [("Training", "Testing"), ("TRAIN", "Val"), ("training_set", "test_set"), ("Train", "Validation")]
)
def test_spellings_of_splits(tmp_path, write_image, names):
    for split in names:
        for label in ("a", "b"):
            write_image(tmp_path / split / label / "1.png")
    data = load_dataset("folder", tmp_path)
    assert data.label_names == ("a", "b")
    assert [{path.split("/")[0] for path in split.paths} for split in (data.train, data.test)] == [{n} for n in names]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["Training/1.png", "Testing/1.png"],
            "Testing' reads as a split and has no class folders; put its images into",
        ),
        (["test/a/1.png", "Val/a/1.png"], "has folders of splits, .*, and none to train on; name one 'train'"),
        (["train/a/1.png", "train/b/1.png", "extra/1.png"], "'train', which read as splits, and 'extra' beside them"),
        (["Train/a/1.png", "train/a/1.png"], "two folders for the split 'train', 'Train' and 'train'; remove one"),
        (["a/train/1.png", "a/test/1.png", "b/train/1.png"], "each class folder of .* holds folders of splits"),
    ],
)
def test_layouts_that_may_mean_several_things(tmp_path, write_image, paths, message):
    for path in paths:
        write_image(tmp_path / path)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", tmp_path)


def test_a_class_may_have_the_name_of_a_split(tmp_path, write_image):
    for name in ("car", "plane", "train"):
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png")
    assert load_dataset("folder", tmp_path).label_names == ("car", "plane", "train")


def test_what_tools_leave_in_folders_is_no_data(tmp_path, write_image):
    for path in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        write_image(tmp_path / path)
        write_image(tmp_path / ".ipynb_checkpoints" / path)
        write_image(tmp_path / "__MACOSX" / path)
        write_image((tmp_path / path).parent / ".ipynb_checkpoints" / "1-checkpoint.png")
        write_image((tmp_path / path).parent / "__MACOSX" / "1.png")
    data = load_dataset("folder", tmp_path)
    assert data.label_names == ("a", "b")
    assert sorted((*data.train.paths, *data.test.paths)) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
