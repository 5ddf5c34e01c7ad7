"""Variables that Flax wrote, under the names of scico's DnCNN; damaged files are one clear error."""

import numpy as np
import pytest
from flax import serialization, traverse_util

from cnnjax.pretrained import WeightsFileError, from_state_dict, load, reference_shapes, to_state_dict


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a file of random weights, and its arrays by name."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.uniform(0.5, 1, shape).astype(np.float32)
        for name, shape in reference_shapes("dncnn17_grey", source="scico").items()
    }
    parts = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        parts["batch_stats" if name.endswith(("mean", "var")) else "params"][name] = value
    variables = {key: traverse_util.unflatten_dict(flat, sep="/") for key, flat in parts.items()}
    path = tmp_path_factory.mktemp("flax") / "weights.mpk"
    path.write_bytes(serialization.msgpack_serialize(variables))
    return path, arrays


def test_every_array_has_its_place(written):
    path, arrays = written
    assert len(arrays) == 77
    variables = load("dncnn17_grey", path)
    np.testing.assert_array_equal(
        variables["params"]["stage1"]["block15"]["conv1"]["kernel"], arrays["ConvBNBlock_14/Conv_0/kernel"]
    )
    np.testing.assert_array_equal(
        variables["batch_stats"]["stage1"]["block1"]["norm1"]["var"], arrays["ConvBNBlock_0/BatchNorm_0/var"]
    )
    back = to_state_dict("dncnn17_grey", variables, source="scico")
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
    again = from_state_dict("dncnn17_grey", back, source="scico")
    np.testing.assert_array_equal(again["params"]["stem"]["conv1"]["kernel"], arrays["conv_start/kernel"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is damaged, truncated or not of Flax"),
        (b"no weights", "is damaged, truncated or not of Flax"),
        (serialization.msgpack_serialize({"weights": {}}), "holds no 'params'"),
        (serialization.msgpack_serialize({"params": {"a": {"b": 3}}}), "something other than an array under 'a/b'"),
        (serialization.msgpack_serialize({"params": {}, "batch_stats": [1]}), "something other than a dictionary"),
    ],
)
def test_damaged_files_are_one_error(tmp_path, content, message):
    path = tmp_path / "weights.mpk"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=message) as error:
        load("dncnn17_grey", path)
    assert "\n" not in str(error.value)


def test_a_file_that_was_cut_off_is_named(written, tmp_path):
    content = written[0].read_bytes()
    (tmp_path / "short.mpk").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsFileError, match=r"short\.mpk is damaged, truncated or not of Flax"):
        load("dncnn17_grey", tmp_path / "short.mpk")
