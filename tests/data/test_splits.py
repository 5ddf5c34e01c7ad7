"""TFDS's language of splits, over any source."""

import numpy as np
import pytest

from cnnjax.data import ArraySplit, DataError, load_dataset
from cnnjax.data.splits import SplitSet, choose_splits


def numbered(start, count):
    labels = np.arange(start, start + count, dtype=np.int32)
    return ArraySplit(labels.astype(np.uint8).reshape(-1, 1, 1, 1), labels)


def split_set(**counts):
    splits, start = {}, 0
    for name, count in counts.items():
        splits[name] = numbered(start, count)
        start += count
    return SplitSet("numbers", "1", splits, tuple("ab"), (1, 1, 1))


def labels(source):
    images, found = source.read(np.arange(len(source)))
    assert [int(np.ravel(image)[0]) for image in images] == found.tolist()
    return found.tolist()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train", range(20)),
        ("train[:10%]", range(2)),
        ("train[90%:]", range(18, 20)),
        ("train[5:8]", range(5, 8)),
        ("train[-3:]", range(17, 20)),
        ("train[:2]+test[1:3]", [0, 1, 21, 22]),
        ("test + train[:1]", [20, 21, 22, 23, 24, 0]),
    ],
)
def test_splits_are_what_tfds_means_by_them(spec, expected):
    train, test = choose_splits(split_set(train=20, test=5), spec, "test[:1]")
    assert labels(train) == list(expected)
    assert labels(test) == [20]


def test_joined_splits_are_read_in_any_order():
    train, _ = choose_splits(split_set(train=20, test=5), "train[:2]+test[1:3]")
    assert train.read(np.array([3, 0, 2, 0]))[1].tolist() == [22, 0, 21, 0]


def test_the_split_to_test_on():
    assert labels(choose_splits(split_set(train=3, validation=2, test=4))[1]) == [5, 6, 7, 8]
    assert labels(choose_splits(split_set(train=3, validation=2))[1]) == [3, 4]
    # A set that has a validation split keeps all of train; one that has none gives its last tenth.
    assert labels(choose_splits(split_set(train=20, validation=2), test="validation")[0]) == list(range(20))
    train, held_out = choose_splits(split_set(train=20, test=4), test="validation")
    assert (labels(train), labels(held_out)) == (list(range(18)), [18, 19])
    assert [len(part) for part in choose_splits(split_set(train=3), test="validation")] == [2, 1]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("train", None, "none to test on: hold out the last tenth of train by --test-split validation"),
        ("train", "tset", r"split 'tset' of data set 'numbers': Unknown split 'tset'.*it has train \(20\)"),
        ("train[:10%", "train[:1]", "split 'train\\[:10%'.*format"),
        ("train[30:]", "train[:1]", "incompatible with 20 examples"),
        ("train[5:5]", "train[:1]", "holds no examples"),
        ("train[8:5]", "train[:1]", "holds no examples"),
        ("train[:1%]", "train[:1]", "holds no examples"),
        ("train[:10]", "validation", "Unknown split 'validation'"),
    ],
)
def test_splits_that_are_not_there(train, test, message):
    with pytest.raises(DataError, match=message):
        choose_splits(split_set(train=20), train, test)


def test_splits_of_a_tfds_set(tmp_path):
    digits = load_dataset("digits:1.0.0", tmp_path, train_split="train[:90%]", test_split="train[90%:]")
    assert (len(digits.train), len(digits.test)) == (1294, 144)
    whole = load_dataset("digits", tmp_path, test_split="validation")
    assert (len(whole.train), len(whole.test)) == (1295, 143)
    np.testing.assert_array_equal(whole.test.read(np.arange(143))[1], digits.test.read(np.arange(1, 144))[1])
    with pytest.raises(DataError, match=r"'digits:9\.9\.9'.*9\.9\.9"):
        load_dataset("digits:9.9.9", tmp_path)


def test_a_skipping_pass_over_a_tfds_set_finds_nothing_bad(tmp_path):
    digits = load_dataset("digits", tmp_path, on_bad_image="skip")
    assert (len(digits.train), digits.skipped) == (1438, ())
    with pytest.raises(DataError, match="on_bad_image must be one of error, skip, got 'ignore'"):
        load_dataset("digits", tmp_path, on_bad_image="ignore")


def test_photographs_have_no_labels():
    with pytest.raises(DataError, match="'photos' has no labels"):
        load_dataset("photos")
