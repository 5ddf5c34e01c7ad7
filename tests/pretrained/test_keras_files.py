"""Files that Keras 3 wrote, and older ones; needs h5py, and runs with ``pytest -m pretrained``."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from file_weights import draw

from cnnjax.pretrained import WeightsFileError, load, reference_shapes
from cnnjax.pretrained.keras_files import read_keras

pytestmark = pytest.mark.pretrained

DATA = Path(__file__).parent / "data"
NAMES = {
    *(f"stem_conv/{leaf}" for leaf in ("kernel", "bias")),
    *(f"stem_bn/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")),
    *(f"bn_without_scale/{leaf}" for leaf in ("beta", "moving_mean", "moving_variance")),
    "depthwise/kernel",
    *(f"separable/{leaf}" for leaf in ("depthwise_kernel", "pointwise_kernel", "bias")),
    *(f"nested/inner_conv/{leaf}" for leaf in ("kernel", "bias")),
    *(f"nested/inner_ln/{leaf}" for leaf in ("gamma", "beta")),
    *(f"predictions/{leaf}" for leaf in ("kernel", "bias")),
}


@pytest.fixture
def h5py():
    import h5py

    return h5py


@pytest.mark.parametrize("file", ["tiny.weights.h5", "tiny.keras", "tiny.h5"])
def test_files_of_keras_3(file):
    arrays = read_keras(DATA / file)
    assert arrays.keys() == NAMES
    for name, expected in draw({name: array.shape for name, array in arrays.items()}).items():
        np.testing.assert_array_equal(np.asarray(arrays[name]), expected, err_msg=name)
        assert arrays[name].dtype == np.float32


def write_legacy(h5py, path, arrays):
    """Write arrays as tf.keras does, whose depthwise layers name their kernel otherwise."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = sorted({name.split("/")[0] for name in arrays})
        for name, array in arrays.items():
            layer, leaf = name.split("/")
            if "depthwise" in layer or layer.endswith("_dw"):
                leaf = leaf.replace("kernel", "depthwise_kernel")
            file[f"{layer}/{layer}/{leaf}:0"] = array


def test_published_weights_of_older_keras(h5py, tmp_path):
    shapes = reference_shapes("mobilenet_v2", source="keras")
    arrays = draw(shapes)
    write_legacy(h5py, tmp_path / "old.h5", arrays)
    variables = load("mobilenet_v2", tmp_path / "old.h5")
    np.testing.assert_array_equal(variables["params"]["stem"]["conv1"]["kernel"], arrays["Conv1/kernel"])
    with pytest.raises(ValueError, match="old.h5: resnet18 has no weights in 'keras'"):
        load("resnet18", tmp_path / "old.h5")
    with pytest.raises(ValueError, match="Keras's network is resnet50 with strided_conv=1, conv_bias=True, epsilon="):
        load("resnet50", tmp_path / "old.h5")


def test_arrays_of_half_precision_are_read(h5py, tmp_path):
    import jax.numpy as jnp

    values = jnp.asarray([1.5, -2.0], jnp.bfloat16)
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "d"
        group["0"] = np.asarray(values).view(np.uint16)
        group["0"].attrs["dtype"] = "bfloat16"
    array = np.asarray(read_keras(tmp_path / "a.weights.h5")["d/kernel"])
    np.testing.assert_array_equal(array.astype(np.float32), [1.5, -2.0])


def test_files_that_are_no_keras_files(h5py, tmp_path):
    for file in ("tiny.weights.h5", "tiny.keras", "tiny.h5"):
        whole = (DATA / file).read_bytes()
        for length in (0, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / file).write_bytes(whole[:length])
            with pytest.raises(WeightsFileError, match=file):
                read_keras(tmp_path / file)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(WeightsFileError, match="a.keras is not a file that Keras wrote"):
        read_keras(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1000))
    with pytest.raises(WeightsFileError, match="compressed, which Keras does not do"):
        read_keras(tmp_path / "a.keras")
    path = tmp_path / "a.weights.h5"
    for write, message in (
        (lambda file: file.create_group("layers"), "holds no weights"),
        (lambda file: file.create_dataset("layers/dense/vars/0", data=[1.0]), "does not tell the name of its layer"),
        (lambda file: file.create_dataset("layers/dense/kernel", data=[1.0]), "it holds an array layers/dense/kernel"),
    ):
        with h5py.File(path, "w") as file:
            write(file)
        with pytest.raises(WeightsFileError, match=message):
            read_keras(path)
    # Arrays whose bytes are those of another file.
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(64))
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "d"
        group.create_dataset("0", (16,), "f4", external=[(str(secret), 0, 64)])
    with pytest.raises(WeightsFileError, match="layers/dense/vars/0 is kept in another file"):
        read_keras(path)
    for kind, count, message in (("lstm", 1, "is a lstm, whose arrays have no names"), ("dense", 3, "has 3 arrays")):
        with h5py.File(path, "w") as file:
            group = file.create_group(f"layers/{kind}/vars")
            group.attrs["name"] = "d"
            for number in range(count):
                group[str(number)] = [1.0]
        with pytest.raises(WeightsFileError, match=message):
            read_keras(path)


def test_what_to_install_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsFileError, match='install h5py: pip install "cnnjax.keras."'):
        read_keras(DATA / "tiny.h5")
