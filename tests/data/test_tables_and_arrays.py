"""CSV and .npz files."""

import io
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from cnnjax.data import DataError, DataPipeline, load_dataset, npz_file
from cnnjax.data.decode import read_image
from cnnjax.data.source import Task
from cnnjax.training import ConfigError, TrainConfig, fit

ANY = get_args(Task)


@pytest.fixture
def table(tmp_path, write_image):
    """Return a function that writes a CSV file beside ten images whose colour is their number."""
    for number in range(10):
        write_image(tmp_path / f"{number}.png", (number, 0, 0))

    def write(text):
        (tmp_path / "table.csv").write_text(text)
        return tmp_path / "table.csv"

    return write


def rows(template, count=10):
    return "".join(template.format(n=n, half=n / 2, parity="even" if n % 2 == 0 else "odd") for n in range(count))


def numbers(source):
    images, labels = source.read(np.arange(len(source)))
    return {int(image[0, 0, 0]): label for image, label in zip(images, labels.tolist(), strict=True)}


def test_classes(table):
    data = load_dataset("csv", table("path,label\n" + rows("{n}.png, {parity}\n")))
    assert data.label_names == ("even", "odd")
    assert data.task == "classification"
    assert (len(data.train), len(data.test)) == (8, 2)
    assert numbers(data.train) | numbers(data.test) == {n: n % 2 for n in range(10)}


def test_numbers_for_classes_are_in_their_order(table):
    data = load_dataset("csv", table("label,path\n" + rows("{n}0,{n}.png\n")), test_split="train[:1]")
    assert data.label_names == tuple(f"{n}0" for n in range(10))


def test_several_classes_an_image(table):
    data = load_dataset("csv", table("path,label\n0.png,a|b\n1.png,c\n2.png,a\n3.png, b | c\n4.png,c\n"), tasks=ANY)
    assert (data.task, data.label_names) == ("multilabel", ("a", "b", "c"))
    found = numbers(data.train) | numbers(data.test)
    assert found == {0: [1, 1, 0], 1: [0, 0, 1], 2: [1, 0, 0], 3: [0, 1, 1], 4: [0, 0, 1]}
    assert data.train.labels.dtype == np.float32


def test_numbers_to_regress_and_given_splits(table):
    text = "path,split,x,y\n" + rows("{n}.png,train,{n},{half}\n", 6)
    data = load_dataset("csv", table(text + "7.png,test,1e3,-0.5\n8.png,validation,0,0\n"), tasks=ANY)
    assert (data.task, data.label_names, data.num_classes) == ("regression", ("x", "y"), 2)
    assert numbers(data.train) == {n: [n, n / 2] for n in range(6)}
    assert numbers(data.test) == {7: [1000, -0.5]}
    pipeline = DataPipeline.create(data, 4)
    batch = next(pipeline.train_batches(3, 1, seed=0))
    assert sorted(batch) == ["image", "target"]
    assert (batch["target"].shape, batch["target"].dtype) == ((3, 2), np.float32)
    (test,) = pipeline.test_batches(4)
    assert (test["target"].shape, test["mask"].tolist()) == ((4, 2), [True, False, False, False])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n0.png,a\n1.png\n", "line 3 of .* does not have 2 cells"),
        ("path,label\n0.png,a\n1.png,b,c\n", "line 3 of .* does not have 2 cells"),
        ("path,label\n0.png,a\n1.png,\n", "line 3 of .*: column 'label' is empty"),
        ("path,label\n0.png,a\n1.png,a\n", "has one class, 'a'"),
        ("path,label\n0.png,a\n1.png,a||b\n", r"line 3 of .*label 'a\|\|b' names no class"),
        ("path,label\n0.png,a|a\n1.png,b\n", r"line 2 of .*or one twice"),
        ("path,label\n0.png,a\n1.png,b\n./0.png,b\n", r"'./0.png' is 'a' in line 2 of .* and 'b' in line 4; remove"),
        ("path,age\n0.png,12\n1.png,old\n", "line 3 of .*: age must be a finite number, got 'old'"),
        ("path,age\n0.png,nan\n1.png,3\n", "line 2 of .*: age must be a finite number, got 'nan'"),
        ("path,age\n0.png,inf\n1.png,3\n", "got 'inf'"),
        ("path,label,age\n0.png,a,3\n1.png,b,3\n", "needed are 'path' and either 'label' or numbers"),
        ("path\n0.png\n", "needed are 'path' and either 'label' or numbers"),
        ("file,label\n0.png,a\n", "'path' among them, and rows; got columns file, label and 1 rows"),
        ("path,label\n", "got columns path, label and 0 rows"),
        ("", "got columns none and 0 rows"),
        (
            "path,label,split\n0.png,a,dev\n1.png,b,train\n",
            "line 2 of .*split must be train, validation or test, got 'dev'",
        ),
        ("path,label,split\n0.png,a,train\n1.png,b,test\n", "has one class in the rows whose split is train, 'a'"),
        ("path,label,split\n0.png,a,test\n1.png,b,test\n", "no row whose split is train"),
        (
            "path,label\n0.png,a\n1.png,b\nnone.png,b\n",
            "1 of 3 images cannot be used; the first, .*none.png.*No such file",
        ),
    ],
)
def test_bad_tables(table, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset("csv", table(text))


def test_tables_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"'csv' needs --data-dir: the \.csv file"):
        load_dataset("csv")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_dataset("csv", tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        load_dataset("csv", tmp_path / "binary.csv")


def test_a_skipped_image_of_a_table(table):
    path = table("path,label\n" + rows("{n}.png,{parity}\n"))
    (path.parent / "4.png").write_text("This is a text.")
    data = load_dataset("csv", path, on_bad_image="skip")
    assert [file for file, _ in data.skipped] == [str(path.parent / "4.png")]
    assert numbers(data.train) | numbers(data.test) == {n: n % 2 for n in range(10) if n != 4}


# ------------------------------------------------------------------------------------------------------------- arrays

IMAGES = np.arange(10 * 4 * 5, dtype=np.uint8).reshape(10, 4, 5)
LABELS = np.arange(10) % 3


@pytest.fixture
def arrays(tmp_path):
    """Return a function that writes arrays into an .npz file."""

    def write(**given):
        np.savez(tmp_path / "arrays.npz", **given)
        return tmp_path / "arrays.npz"

    return write


def test_images_and_labels_alone(arrays):
    data = load_dataset("npz", arrays(images=IMAGES, labels=LABELS))
    assert data.image_shape == (4, 5, 1)
    assert data.label_names == ("0", "1", "2")
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES[[4, 9]])
    np.testing.assert_array_equal(data.train.labels, np.delete(LABELS, [4, 9]))


@pytest.mark.parametrize(
    "keys",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_arrays_of_splits(arrays, keys):
    given = dict(zip(keys, (IMAGES[:7], LABELS[:7, None], IMAGES[7:], LABELS[7:, None]), strict=True))
    data = load_dataset("npz", arrays(**given, label_names=np.array(["a", "b", "c", "d"])))
    assert data.label_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(data.train.labels, LABELS[:7])
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES[7:])


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 257, 65535], np.uint16), [0, 1, 255]),
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 0.5, 1], np.float64), [0, 128, 255]),
    ],
)
def test_types_of_images(arrays, images, expected):
    tiled = np.tile(images.reshape(3, 1, 1, 1), (1, 2, 2, 3))
    data = load_dataset("npz", arrays(train_images=tiled, train_labels=np.arange(3)), test_split="train")
    assert data.train.images[:, 0, 0, 0].tolist() == expected
    assert data.train.images.dtype == np.uint8


def test_numbers_to_regress_from_arrays(arrays):
    data = load_dataset("npz", arrays(images=IMAGES, labels=LABELS / 2), tasks=ANY)
    assert (data.task, data.label_names) == ("regression", ("0",))
    assert data.test.labels.tolist() == [[0.5], [0.0]]
    assert data.test.labels.dtype == np.float32


def spoiled(index, value):
    images = (IMAGES / 255).astype(np.float32)
    images[index, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "has NaN"), (np.inf, "has levels from 0.* to inf"), (1.5, "has levels from 0.* to 1.5, not")],
)
def test_nan_and_other_levels(arrays, value, reason):
    path = arrays(images=spoiled(3, value), labels=LABELS)
    with pytest.raises(DataError, match=rf"1 of 10 images cannot be used; the first, '.*npz:images\[3\]', {reason}"):
        load_dataset("npz", path)
    data = load_dataset("npz", path, on_bad_image="skip")
    assert [name for name, _ in data.skipped] == [f"{path}:images[3]"]
    np.testing.assert_array_equal(data.train.labels, np.delete(LABELS, [3, 4, 9]))
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES[[4, 9]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": np.where(LABELS == 2, -1, LABELS)}, r"labels\[2\] in .* is -1; needed is a class from 0 to 1"),
        ({"label_names": np.array(["a", "b"])}, r"labels\[2\] in .* is 2; needed is a class from 0 to 1"),
        ({"label_names": np.array(["a", "b", "a"])}, "label_names in .* has 'a' twice"),
        ({"labels": np.where(LABELS == 2, np.nan, LABELS)}, r"labels\[2\] in .* needed are finite numbers"),
        ({"labels": LABELS[:9]}, "has 10 images and 9 labels"),
        ({"labels": np.zeros((10, 2), int)}, r"labels in .* is int64\[10, 2\]; needed are whole numbers"),
        ({"labels": LABELS * 0}, "labels in .* has one class, '0'; needed are two or more"),
        ({"labels": LABELS * 0, "label_names": np.array(["a", "b"])}, "labels in .* has one class, 'a'"),
        ({"labels": np.array(["a"] * 10)}, "labels in .* has one class, 'a'"),
        ({"labels": np.array([b"\xff"] * 10)}, "labels in .* is not text in UTF-8"),
        ({"images": np.zeros((10, 3, 32, 32), np.uint8)}, r"\(10, 3, 32, 32\), channels first; .*images.transpose"),
        ({"images": IMAGES[0]}, r"images in .* has shape \(4, 5\)"),
        ({"images": IMAGES.astype(int)}, "images in .* is of type int64; needed is uint8, uint16, or floats"),
        ({"images": np.array(["a"] * 10)[:, None, None]}, "is of type <U1"),
    ],
)
def test_bad_arrays(arrays, given, message):
    with pytest.raises(DataError, match=message):
        load_dataset("npz", arrays(**{"images": IMAGES, "labels": LABELS} | given))


@pytest.mark.parametrize("kind", [str, bytes])
def test_labels_that_are_names(arrays, kind):
    words = np.array(["cat", "dog", "bird"])[LABELS].astype(np.dtype(kind))
    data = load_dataset("npz", arrays(images=IMAGES, labels=words[:, None]))
    assert data.label_names == ("bird", "cat", "dog")
    assert data.test.labels.tolist() == [[1, 2, 0][label] for label in LABELS[[4, 9]]]
    data = load_dataset("npz", arrays(images=IMAGES, labels=words, label_names=np.array(["dog", "cat", "bird"])))
    assert data.test.labels.tolist() == [[1, 0, 2][label] for label in LABELS[[4, 9]]]
    path = arrays(train_images=IMAGES, train_labels=words, test_images=IMAGES, test_labels=np.array(["cow"] * 10))
    with pytest.raises(DataError, match=r"test_labels\[0\] in .* is 'cow'; needed is one of bird, cat, dog"):
        load_dataset("npz", path)


def test_labels_that_are_tested_and_not_trained(arrays):
    path = arrays(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:2], test_labels=np.array([0, 3]))
    with pytest.raises(DataError, match=r"test_labels\[1\] in .* is 3; needed is a class from 0 to 2"):
        load_dataset("npz", path)


def test_splits_of_different_shapes(arrays):
    path = arrays(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:, :3], test_labels=LABELS)
    with pytest.raises(DataError, match="needed is one shape in all splits"):
        load_dataset("npz", path)


def test_files_that_hold_no_such_arrays(tmp_path, arrays):
    with pytest.raises(DataError, match="has arrays pixels; needed are train_images and train_labels"):
        load_dataset("npz", arrays(pixels=IMAGES))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_dataset("npz", tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("This is a text.")
    with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays"):
        load_dataset("npz", tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(DataError, match="holds one array"):
        load_dataset("npz", tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", images=np.array([print], object), labels=LABELS)
    with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays: Object arrays cannot be loaded"):
        load_dataset("npz", tmp_path / "objects.npz")


def test_a_header_that_claims_more_than_there_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"few")
    with pytest.raises(
        DataError, match=r"images.npy in .* claims to be uint8\[1125899906842624\].* and holds 3; the file"
    ):
        load_dataset("npz", tmp_path / "claims.npz")


def test_a_decompression_bomb_is_not_unpacked(tmp_path, arrays, monkeypatch):
    images = np.zeros((20, 300, 300), np.uint8)
    np.savez_compressed(tmp_path / "bomb.npz", images=images, labels=np.arange(20) % 2)
    assert len(load_dataset("npz", tmp_path / "bomb.npz").train) == 16
    monkeypatch.setattr(npz_file, "MUCH", 1 << 20)
    with pytest.raises(DataError, match="would fill 1,80.,... bytes of memory and is refused as a decompression bomb"):
        load_dataset("npz", tmp_path / "bomb.npz")
    # However large it is, what is not compressed is as large as it says.
    assert len(load_dataset("npz", arrays(images=images, labels=np.arange(20) % 2)).train) == 16


@pytest.mark.parametrize("name", ["csv", "npz"])
def test_only_regular_files_are_opened(name, table):
    with pytest.raises(DataError, match="'/dev/zero' is a folder, device or pipe; needed is a regular file"):
        load_dataset(name, "/dev/zero")
    with pytest.raises(DataError, match="1 of 2 images cannot be used; .*/dev/zero', is a folder, device or pipe"):
        load_dataset("csv", table("path,label\n0.png,a\n/dev/zero,b\n"))
    with pytest.raises(DataError, match="/dev/zero is a folder, device or pipe, not a regular file"):
        read_image(Path("/dev/zero"), 3)


# ------------------------------------------------------------------------------------------------------------ training


def run(tmp_path, dataset, path, **flags):
    """Train a small network on a set for two epochs, and return the result."""
    settings = {"model": "mlp", "augment": (), "optimizer": "sgd", "normalization": "data", "parallel": "single"}
    settings |= {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "schedule": "constant", **flags}
    config = TrainConfig(dataset=dataset, data_dir=path, workdir=tmp_path / "run", **settings)
    return fit(config, Console(quiet=True))


@pytest.mark.slow
def test_training_to_regress(tmp_path, table):
    path = table("path,x,y\n" + rows("{n}.png,{n},{half}\n"))
    for flags, message in (
        ({}, "loss must be one of mse, mae, huber for csv, a set for regression, got 'cross_entropy'"),
        ({"loss": "mse"}, "measure must be loss for csv, a set for regression, got 'accuracy'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path, "csv", path, **flags)
    result = run(tmp_path, "csv", path, loss="mse", measure="loss")
    assert {"test_mse", "test_mae", "best_test_loss"} <= set(result)
    assert np.isfinite(result["test_loss"])


@pytest.mark.slow
def test_training_with_several_classes_an_image(tmp_path, table):
    path = table("path,label\n" + rows("{n}.png,{parity}|number\n"))
    with pytest.raises(ConfigError, match="loss must be one of binary_cross_entropy for csv, a set for multilabel"):
        run(tmp_path, "csv", path)
    result = run(tmp_path, "csv", path, loss="binary_cross_entropy")
    assert np.isfinite(result["test_loss"])


def test_sets_for_another_task_are_refused(table):
    path = table("path,x\n" + rows("{n}.png,{n}\n"))
    with pytest.raises(DataError, match="data set 'csv' in .* is for regression; needed is one for classification"):
        load_dataset("csv", path)
