"""Networks are found whatever stands around their names, in every format, and never by accident."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from file_weights import FIELDS, NAME, draw
from test_load import Hostile, archive, assert_equal, write_safetensors

from cnnjax.pretrained import WeightsFileError, from_state_dict, load, reference_shapes
from cnnjax.pretrained.nesting import network_arrays, renumbered
from cnnjax.pretrained.rules.efficientnet import KERAS_NORMALIZATION
from cnnjax.pretrained.torch_files import read_torch

DATA = Path(__file__).parent / "data"
TINY = {"num_classes": 10, **FIELDS}


@pytest.fixture(scope="module")
def state():
    return draw(reference_shapes(NAME, source="torch", **TINY))


@pytest.fixture(scope="module")
def variables(state):
    return from_state_dict(NAME, state, source="torch", **TINY)


def before(prefix, arrays):
    return {f"{prefix}{name}": value for name, value in arrays.items()}


def shifted(arrays):
    return {name: value + 1 for name, value in arrays.items()}


BESIDE = {"criterion.weight": np.ones(3), "queue": np.ones((2, 3)), "optimizer": {"state": {"0": {"x": np.ones(2)}}}}


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "encoder.", "1.", "net.encoder_q."),
        *("any.name.", "model._orig_mod."),
    ],
)
def test_what_is_before_all_names(prefix, state, variables, tmp_path):
    assert_equal(from_state_dict(NAME, before(prefix, state), source="torch", **TINY), variables)
    nested = {"state_dict": before(prefix, state)} | BESIDE
    assert_equal(from_state_dict(NAME, nested, source="torch", **TINY), variables)
    if prefix == "model.":
        flat = before(prefix, state) | {"criterion.weight": np.ones(3, np.float32)}
        assert_equal(load(NAME, write_safetensors(tmp_path / "a.safetensors", flat), **TINY), variables)


def test_wrappers_of_parts_and_counters(state, variables):
    wrapped = {name.replace("stage1.", "stage1.module._orig_mod."): value for name, value in state.items()}
    counters = {"n_averaged": np.array(3), "stem.norm1.num_batches_tracked": np.array(7), "stem.total_ops": np.zeros(1)}
    assert_equal(from_state_dict(NAME, wrapped | counters, source="torch", **TINY), variables)


def test_moving_averages_are_never_taken_by_accident(state, variables):
    for plain, average in (
        ("model", "model_ema"),
        ("state_dict", "state_dict_ema"),
        ("model_state_dict", "ema_state_dict"),
        ("net", "ema"),
        ("encoder_q", "encoder_k"),
        ("student", "teacher"),
    ):
        for content in (
            {average: shifted(state), plain: state},
            before(f"{average}.", shifted(state)) | before(f"{plain}.module.", state),
            {average: {"module": shifted(state)}, plain: before("module.", state)},
        ):
            loaded = from_state_dict(NAME, content, source="torch", **TINY)
            assert_equal(loaded, variables)
            averages = from_state_dict(NAME, content, source="torch", entry=average, **TINY)
            assert_equal(averages, jax.tree.map(lambda leaf: leaf + 1, variables))
    # Nothing else there is no accident.
    assert_equal(from_state_dict(NAME, {"model_ema": state, "epoch": np.array(1)}, source="torch", **TINY), variables)


def test_which_of_two_networks_is_asked(state, variables):
    content = {"generator": state, "critic": shifted(state)}
    message = "hold the network more than once; give one of these: entry='critic', entry='generator'"
    with pytest.raises(ValueError, match=f"{NAME}: the weights {message}"):
        from_state_dict(NAME, content, source="torch", **TINY)
    assert_equal(from_state_dict(NAME, content, source="torch", entry="generator", **TINY), variables)
    with pytest.raises(ValueError, match="no entry 'ema' that holds the network; give one of these: entry='critic'"):
        from_state_dict(NAME, content, source="torch", entry="ema", **TINY)
    with pytest.raises(ValueError, match="no entry 'ema' .* hold one network, not in an entry: leave entry out"):
        from_state_dict(NAME, state, source="torch", entry="ema", **TINY)


def test_what_is_within_the_network_is_not_left_out(state):
    with pytest.raises(ValueError, match="1 unexpected:\n  more.weight"):
        from_state_dict(NAME, {"state_dict": before("module.", state | {"more.weight": np.ones(3)})}, source="torch")


def test_weights_that_do_not_fit_are_named_without_what_is_around_them():
    expected = {"torch": {"stem.weight", "head.weight"}}
    content = {"epoch": np.array(1), "state_dict_ema": {"a.b": 1, "a.c": 2, "a.d": 3}, "state_dict": {"model.b": 1}}
    assert network_arrays(content | {"state_dict": {"model.b": 1, "model.c": 2}}, expected)[1] == {"b": 1, "c": 2}


def test_a_training_script_s_file_of_pytorch(variables):
    """Written by PyTorch: names of a compiled network on several devices, averages, and plain objects beside."""
    content = read_torch(DATA / "tiny_wild.pth.tar")
    assert content.keys() == {"best_acc1", "state_dict", "state_dict_ema", "optimizer"}
    assert_equal(load(NAME, DATA / "tiny_wild.pth.tar", **TINY), variables)
    averages = load(NAME, DATA / "tiny_wild.pth.tar", entry="state_dict_ema", **TINY)
    assert_equal(averages, jax.tree.map(lambda leaf: leaf + 1, variables))


def test_what_is_no_plain_object_is_refused_by_its_entry(tmp_path):
    import os

    for protocol in range(6):
        value = {"epoch": 3, "scheduler": {"inner": [Hostile(os.system, "true")]}}
        path = archive(tmp_path / "a.pth", pickle.dumps(value, protocol))
        with pytest.raises(WeightsFileError, match="asks for (posix|nt).system in the entry 'scheduler', which is"):
            load(NAME, path, **TINY)


def test_contents_tell_the_format_whatever_the_name(variables, tmp_path):
    for file, name in (("tiny.pth", "a.safetensors"), ("tiny_legacy.pth", "b"), ("tiny.safetensors", "c.bin")):
        (tmp_path / name).write_bytes((DATA / file).read_bytes())
        assert_equal(load(NAME, tmp_path / name, **TINY), variables)
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer to them; fetch them with git lfs"),
        (b"\n<!DOCTYPE html><html>", "not the weights but a web page"),
        (b"GIF89a", "is not a file of weights of safetensors, PyTorch, Keras or Flax"),
    ):
        (tmp_path / "d").write_bytes(content)
        with pytest.raises(WeightsFileError, match=message):
            load(NAME, tmp_path / "d", **TINY)


def test_weights_in_several_files(state, variables, tmp_path):
    names = list(state)
    parts = {"model-1.safetensors": names[:7], "model-2.safetensors": names[7:]}
    for file, some in parts.items():
        write_safetensors(tmp_path / file, {name: state[name] for name in some})
    index = tmp_path / "model.safetensors.index.json"

    def write(weight_map):
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))

    write({name: file for file, some in parts.items() for name in some})
    assert_equal(load(NAME, index, **TINY), variables)
    assert_equal(load(NAME, tmp_path, **TINY), variables)
    for weight_map, message in (
        ({"a": "../model-1.safetensors"}, "names no files, or files that are not in its folder"),
        ({"a": "model-1.safetensors"}, "model-1.safetensors lacks the array 'a', of which model.safetensors.index"),
        ({"a": "model-3.safetensors"}, "there is no file .*model-3.safetensors"),
        ({"a": index.name}, "it names another index"),
        ({"a": 3}, "has no readable weight_map"),
        ([], "has no readable weight_map"),
        ({}, "names no files"),
    ):
        write(weight_map)
        with pytest.raises(WeightsFileError, match=message):
            load(NAME, tmp_path, **TINY)


def test_heads_that_became_sequences(state, variables):
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    kernel, bias = state["head.classifier.weight"], state["head.classifier.bias"]
    dropout = body | {"head.classifier.1.weight": kernel, "head.classifier.1.bias": bias}
    assert_equal(from_state_dict(NAME, dropout, source="torch", **TINY), variables)
    deep = dropout | {"head.classifier.0.weight": kernel, "head.classifier.0.bias": bias}
    other = body | {"head.weight": kernel, "head.bias": bias}
    for content in (deep, other, body):
        redrawn = from_state_dict(NAME, content, source="torch", num_classes=3, redraw_head=jax.random.key(0), **FIELDS)
        assert redrawn["params"]["head"]["classifier"]["kernel"].shape == (8, 3)
        assert "head" not in from_state_dict(NAME, content, source="torch", num_classes=0, **FIELDS)["params"]
    for content in (deep, body):
        with pytest.raises(
            ValueError,
            match=r"all but the classifier fits: redraw_head=.*finetune.replace_head .*=0",
        ):
            from_state_dict(NAME, content, source="torch", **TINY)
    with pytest.raises(ValueError, match=r"but the classifier fits: num_classes=10 takes .* redraw_head=jax.random"):
        from_state_dict(NAME, state, source="torch", num_classes=3, **FIELDS)


def test_numbers_of_keras_go_on_from_network_to_network():
    first = ["conv2d", "conv2d_1", "conv2d_2", "batch_normalization", "block1_conv", "predictions"]
    later = ["conv2d_53", "conv2d_54", "conv2d_55", "batch_normalization_7", "block1_conv", "predictions"]
    given = {f"{layer}/kernel": number for number, layer in enumerate(later)}
    expected = {f"{layer}/kernel": number for number, layer in enumerate(first)}
    assert renumbered(given, expected) == expected
    # Layers of another number are others, and keep their names for the message.
    fewer = {key: value for key, value in given.items() if "54" not in key}
    assert renumbered(fewer, expected).keys() >= {"conv2d_53/kernel", "conv2d_55/kernel", "batch_normalization/kernel"}
    nested = {f"inner/{name}": value for name, value in given.items()}
    assert renumbered(nested, expected) == {f"inner/{name}": value for name, value in expected.items()}


# Keras's automatic names.
NUMBER = re.compile(r"\b(conv2d_transpose|conv2d|batch_normalization|normalization|variable)(?:_(\d+))?(?=/|$)")


# What Keras numbers through a session, in networks that are short where the family has such: kinds of layers, and
# arrays without a name. ResNet, DenseNet, MobileNet, NASNet and VGG have names of their own throughout.
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("convnext_tiny", {"stage_sizes": (2, 1), "features": (24, 32), "output_stride": 8}),
        ("denoising_autoencoder", {}),
        ("efficientnet_b0", {"rows": ((False, 1, 3, 1, 32, 1), (False, 6, 5, 2, 24, 1)), "output_stride": 4}),
        pytest.param("xception", {}, marks=pytest.mark.slow),
        pytest.param("inception_v3", {"aux_classifiers": False, "norm_scale": False}, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", {"norm_scale": False}, marks=pytest.mark.slow),
    ],
)
def test_a_second_network_of_a_session_of_keras(name, fields):
    shapes = reference_shapes(name, source="keras", **fields)
    state = {key: np.broadcast_to(np.float32(number), shape) for number, (key, shape) in enumerate(shapes.items())}
    state |= KERAS_NORMALIZATION if name == "efficientnet_b0" else {}

    def second(key):
        """Return the name that an array has when as many layers of its kind were there before."""

        def later(match):
            return f"{match[1]}_{counts[match[1]] + int(match[2] or 0)}"

        return NUMBER.sub(later, key)

    numbers = [match for key in state for match in NUMBER.finditer(key)]
    counts = Counter(kind for kind, _ in {(match[1], match[2]) for match in numbers})
    assert counts
    later = {second(key): value for key, value in state.items()}
    assert later.keys() != state.keys()
    expected, found = (from_state_dict(name, given, source="keras", **fields) for given in (state, later))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
