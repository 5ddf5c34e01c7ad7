import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnnjax.data import DataError, load_dataset
from cnnjax.data.decode import decode_image
from cnnjax.data.source import ArraySplit, to_memory
from cnnjax.data.transforms import Stretch, resize


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset("digits", tmp_path_factory.mktemp("tfds"))


def test_digits_are_scikit_learns_with_a_fixed_split(digits):
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.image_shape == (8, 8, 1)
    assert digits.label_names == tuple("0123456789")
    original = load_digits()
    # TFDS shuffles what it stores, by a hash of the key; compare as multisets.
    expected = sorted(
        (int(label), np.round(pixels * (255 / 16)).astype(np.uint8).tobytes())
        for index, (pixels, label) in enumerate(zip(original.images, original.target, strict=True))
        if index % 5 == 4
    )
    images, labels = digits.test.read(np.arange(359))
    assert sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)) == expected


def test_prepared_data_is_read_again_in_the_same_order(digits, tmp_path):
    again = load_dataset("digits", tmp_path)
    np.testing.assert_array_equal(digits.train.read(np.arange(50))[1], again.train.read(np.arange(50))[1])
    third = load_dataset("digits", tmp_path)
    np.testing.assert_array_equal(again.train.read(np.arange(50))[1], third.train.read(np.arange(50))[1])


def test_memory_holds_what_the_files_hold(digits):
    memory = to_memory(digits.test, Stretch(8), batch=100)
    indices = np.array([3, 358, 0])
    images, labels = digits.test.read(indices)
    np.testing.assert_array_equal(memory.read(indices)[0], np.stack(images))
    np.testing.assert_array_equal(memory.read(indices)[1], labels)
    assert memory.images.dtype == np.uint8


def test_unknown_and_unprepared_sets_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match="unknown data set 'cifr10'; did you mean cifar10"):
        load_dataset("cifr10", tmp_path)
    with pytest.raises(DataError, match=r"'cifar10' is not prepared.*TensorFlow: pip install 'cnnjax\[tf\]'"):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(DataError, match="needs the package tensorflow; pip install"):
        load_dataset("coco", tmp_path)


def test_folders_that_are_not_there_or_no_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere' is not a folder; create it, or give another --data-dir"):
        load_dataset("digits", tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset("digits", file)


def test_unreadable_folders_are_refused(tmp_path, monkeypatch):
    # The superuser may read everything, so permissions themselves cannot be relied on here.
    monkeypatch.setattr("cnnjax.data.tfds_sets.os.access", lambda path, mode: False)
    with pytest.raises(DataError, match="cannot be read; change its permissions"):
        load_dataset("digits", tmp_path)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 1), ("L", 3), ("P", 3), ("RGBA", 3), ("L", 1), ("RGB", 3)])
def test_images_are_decoded_to_the_channels_asked_for(mode, channels):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode).save(file, format="png")
    pixels = decode_image(file.getvalue(), channels)
    assert pixels.shape == (4, 5, channels)
    assert pixels.dtype == np.uint8
    # The nearest colour of Pillow's palette is 204.
    np.testing.assert_allclose(pixels, 200, atol=4 if mode == "P" else 1)


def test_resizing_keeps_channels_and_brightness():
    pixels = np.full((8, 6, 1), 77, np.uint8)
    assert resize(pixels, 8, 6) is pixels
    np.testing.assert_array_equal(resize(pixels, 28, 14), np.full((28, 14, 1), 77))
    np.testing.assert_array_equal(resize(np.full((8, 6, 3), 9, np.uint8), 2, 2), np.full((2, 2, 3), 9))


def test_images_and_labels_must_be_equally_many():
    with pytest.raises(DataError, match="3 images but 2 labels"):
        ArraySplit(np.zeros((3, 1, 1, 1), np.uint8), np.zeros(2, np.int32))


def test_the_first_examples(digits):
    small = digits.first(7, 3)
    assert (len(small.train), len(small.test)) == (7, 3)
    assert len(digits.first().train) == len(digits.train)
    images, labels = small.train.read(np.array([6, 0]))
    expected, expected_labels = digits.train.read(np.array([6, 0]))
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, expected_labels)
    with pytest.raises(DataError, match="test_examples must be from 1 to 359, the number of images there are, got 360"):
        digits.first(None, 360)


@pytest.mark.pretrained
def test_faces_are_scikit_images(tmp_path):
    from skimage.data import lfw_subset

    faces = load_dataset("faces", tmp_path)
    assert faces.name == load_dataset("lfw_subset", tmp_path).name == "lfw_subset"
    assert faces.label_names == ("other", "face")
    assert faces.image_shape == (25, 25, 1)
    images, labels = zip(*(split.read(np.arange(len(split))) for split in (faces.train, faces.test)), strict=True)
    assert [np.bincount(part).tolist() for part in labels] == [[80, 80], [20, 20]]
    given = np.round(lfw_subset() * 255).astype(np.uint8)
    for is_face, expected in ((1, given[:100]), (0, given[100:])):
        found = np.concatenate([np.stack(i)[n == is_face] for i, n in zip(images, labels, strict=True)])[..., 0]
        assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


def test_faces_need_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="comes with scikit-image; pip install scikit-image"):
        load_dataset("lfw_subset", tmp_path)
