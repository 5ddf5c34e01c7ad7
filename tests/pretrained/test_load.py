"""Weights from files that other libraries wrote, and files that are not what they should be."""

import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import first_plain
from file_weights import FIELDS, NAME, draw

import cnnjax
from cnnjax.pretrained import WeightsFileError, from_state_dict, load, reference_shapes, to_state_dict
from cnnjax.pretrained.safetensors_files import read_safetensors
from cnnjax.pretrained.torch_files import read_torch
from cnnjax.training import Checkpoints, TrainState

DATA = Path(__file__).parent / "data"
TINY = {"num_classes": 10, **FIELDS}


@pytest.fixture(scope="module")
def expected():
    return draw(reference_shapes(NAME, source="torch", **TINY))


def assert_equal(a, b, tolerance=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=0), a, b)


def write_safetensors(path, arrays, **changes):
    header, place = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    for name, change in changes.items():
        header[name] |= change
    text = json.dumps(header).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize("file", first_plain(["tiny.safetensors", "tiny.pth", "tiny_legacy.pth"]))
def test_files_of_other_libraries(file, expected):
    variables = load(NAME, DATA / file, **TINY)
    assert_equal(variables, from_state_dict(NAME, expected, source="torch", **TINY))
    model = cnnjax.create_model(NAME, **TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)


def test_a_training_script_s_checkpoint(expected):
    """Views of one storage, transposed and half-precision tensors, parameters, and a name before all names."""
    variables = load(NAME, DATA / "tiny_checkpoint.pt", **TINY)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    # bfloat16 keeps 8 bits of the drawn numbers, which have 8.
    assert_equal(variables, from_state_dict(NAME, expected, source="torch", **TINY), tolerance=2**-8)
    del variables["params"]["stem"]["norm1"]["scale"], variables["params"]["head"]
    rest = from_state_dict(NAME, expected, source="torch", **TINY)
    del rest["params"]["stem"]["norm1"]["scale"], rest["params"]["head"]
    assert_equal(variables, rest)


def test_heads_and_names(expected):
    with pytest.raises(ValueError, match=r"resnet20: .*\n2 misshaped:\n(.*\n)?.*weight is .10, 8., expected .4, 8."):
        load(NAME, DATA / "tiny.pth", num_classes=4, **FIELDS)
    variables = load(NAME, DATA / "tiny.pth", num_classes=4, redraw_head=jax.random.key(0), **FIELDS)
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (8, 4)
    assert "head" not in load(NAME, DATA / "tiny.pth", num_classes=0, **FIELDS)["params"]
    with pytest.raises(ValueError, match="source must be one of .* got 'caffe'"):
        load(NAME, DATA / "tiny.pth", naming="caffe", **TINY)
    with pytest.raises(ValueError, match="unknown model 'resnet21'; did you mean .*resnet20"):
        load("resnet21", DATA / "tiny.pth")
    with pytest.raises(ValueError, match="stem.conv1.weight"):
        load("resnet18", DATA / "tiny.pth")


def test_whose_names_they_are_is_found_out(tmp_path):
    arrays = {
        name: np.ones(shape, np.float32) for name, shape in reference_shapes("squeezenet1_1", num_classes=2).items()
    }
    path = write_safetensors(tmp_path / "a.safetensors", arrays)
    variables = load("squeezenet1_1", path, num_classes=2)
    assert_equal(variables, from_state_dict("squeezenet1_1", arrays, source="torchvision", num_classes=2))
    own = to_state_dict("squeezenet1_1", variables, source="torch")
    assert_equal(load("squeezenet1_1", write_safetensors(tmp_path / "b.safetensors", own), num_classes=2), variables)
    with pytest.raises(ValueError, match="the names of the weights, such as 'x', are none of torchvision, "):
        load("squeezenet1_1", write_safetensors(tmp_path / "c.safetensors", {"x": np.ones(1, np.float32)}))


def test_weights_that_are_not_whole(expected, tmp_path):
    extra = write_safetensors(tmp_path / "extra.safetensors", expected | {"more.weight": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"extra.safetensors: .*\n1 unexpected:\n  more.weight \[3\]"):
        load(NAME, extra, **TINY)
    some = dict(expected)
    some["stem.conv1.weight"] = np.full_like(some["stem.conv1.weight"], np.nan)
    some["head.classifier.bias"] = np.full_like(some["head.classifier.bias"], np.inf)
    message = "not finite, in 2 arrays: params/head/classifier/bias, params/stem/conv1/kernel$"
    with pytest.raises(WeightsFileError, match=message):
        load(NAME, write_safetensors(tmp_path / "nan.safetensors", some), **TINY)
    for name, message in (
        ("missing.pth", "there is no file"),
        ("weights.txt", "give a folder of a run, or a file that ends in one of .safetensors, .pth, "),
        ("", "holds no checkpoint; give a workdir"),
    ):
        with pytest.raises(WeightsFileError, match=message):
            load(NAME, tmp_path / name, **TINY)


@pytest.mark.parametrize("file", ["tiny.pth", "tiny_legacy.pth", "tiny.safetensors"])
def test_a_file_cut_off_anywhere_is_noticed(file, tmp_path):
    whole = (DATA / file).read_bytes()
    path = tmp_path / file
    for length in [0, 1, 7, 8, 9, 30, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsFileError, match=file):
            load(NAME, path, **TINY)


@pytest.mark.parametrize("file", ["tiny.pth", "tiny_legacy.pth", "tiny.safetensors"])
def test_changed_bytes_never_do_more_than_raise(file, tmp_path):
    """Damage is one kind of error, or, where a format has no checksum, other numbers of the same shapes."""
    whole = bytearray((DATA / file).read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / file
    read = read_safetensors if file.endswith("safetensors") else read_torch
    noticed = 0
    for place in rng.integers(0, len(whole), 300):
        changed = whole.copy()
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            for array in read(path).values():
                assert np.asarray(array).shape == array.shape
        except WeightsFileError:
            noticed += 1
    assert noticed > (100 if file == "tiny.pth" else 10)


class Hostile:
    """What a pickle can do to those who load it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, program):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
    return path


def legacy(path, program):
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*parts, program, pickle.dumps([], 2)]))
    return path


def hostile_programs(mark):
    calls = [
        Hostile(os.system, f"touch {mark}"),
        Hostile(os.mkdir, str(mark)),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(exec, f"open({str(mark)!r}, 'w')"),
        Hostile(subprocess.check_output, ["touch", str(mark)]),
        {"conv1.weight": Hostile(os.mkdir, str(mark))},
    ]
    programs = [pickle.dumps(call, protocol) for call in calls for protocol in range(6)]
    text = str(mark).encode()
    return [
        *programs,
        # The instructions for classes, for attributes of classes, and for functions by number.
        b"(S'" + text + b"'\nios\nmkdir\n.",
        b"(cos\nmkdir\nS'" + text + b"'\no.",
        b"\x80\x02cos\nmkdir\nX" + struct.pack("<I", len(text)) + text + b"\x85\x81.",
        b"\x80\x02\x82\x01.",
        # A name that is allowed, with another below it.
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\nS'os.system'\ntR.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
        # A place in the memo, and lengths, that memory would have to be found for.
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
        b"\x80\x02" + b"]" * 100_000 + b".",
        b"\x80\x02" + b"(" * 1000,
        b"}}s.",
    ]


@pytest.mark.parametrize("write", [archive, legacy])
def test_a_hostile_pickle_is_refused_and_does_nothing(write, tmp_path):
    mark = tmp_path / "executed"
    for program in hostile_programs(mark):
        path = write(tmp_path / "hostile.pth", program)
        with pytest.raises(WeightsFileError, match="hostile.pth"):
            load(NAME, path, **TINY)
        assert not mark.exists()
    # They do what they say to those who load them with pickle, so that the test can fail.
    pickle.loads(hostile_programs(mark)[6])
    assert mark.exists()


def test_what_is_refused_is_named(tmp_path):
    path = archive(tmp_path / "a.pth", pickle.dumps(Hostile(os.system, "true"), 2))
    with pytest.raises(WeightsFileError, match="refused: it asks for (posix|nt|os).system, .* save model.state_dict()"):
        load(NAME, path, **TINY)
    with pytest.raises(
        WeightsFileError, match="whole_model.pth is refused: it asks for torch.nn.modules.linear.Linear"
    ):
        load(NAME, DATA / "whole_model.pth", **TINY)
    with pytest.raises(WeightsFileError, match="holds a TorchScript program; save the model's state_dict"):
        load(NAME, DATA / "torchscript.pt", **TINY)
    for value, message in (
        ({"epoch": 1, "loss": 0.5}, "holds no state dict; its keys are epoch, loss"),
        ([1, 2], "holds no state dict but a list"),
        ({"state_dict": {}}, "a dictionary without tensors"),
    ):
        with pytest.raises(WeightsFileError, match=message):
            load(NAME, archive(path, pickle.dumps(value, 2)), **TINY)
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a" * 10_000: 1}, 2))
    with pytest.raises(WeightsFileError, match="none that torch.save wrote"):
        load(NAME, tmp_path / "b.pth", **TINY)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "good"),
    [
        (0, (2, 3), (3, 1), True),
        (1, (5,), (1,), True),
        (0, (3, 2), (1, 3), True),
        (6, (0,), (1,), True),
        (1, (2, 3), (3, 1), False),
        (0, (7,), (1,), False),
        (0, (1000, 1000), (0, 0), False),
        (0, (2,), (6,), False),
        (-1, (2,), (1,), False),
        (0, (2, -1), (1, 1), False),
        (0, (2,), (-1,), False),
        (0, (2**40, 2**40), (1, 1), False),
    ],
)
def test_tensors_stay_in_their_storage(offset, shape, strides, good, tmp_path):
    def number(value):
        return b"\x8a" + bytes([8]) + value.to_bytes(8, "little", signed=True)

    def row(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + number(6) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + row(shape) + row(strides) + b"\x89}tR"
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}" + text(b"x") + tensor + b"s.")
        file.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    if not good:
        with pytest.raises(WeightsFileError, match="a.pth is damaged"):
            read_torch(tmp_path / "a.pth")
        return
    array = np.asarray(read_torch(tmp_path / "a.pth")["x"])
    places = np.indices(shape).reshape(len(shape), -1).T @ np.array(strides) + offset
    np.testing.assert_array_equal(array.reshape(-1), places)


def test_numbers_in_the_other_order_of_bytes(tmp_path):
    with zipfile.ZipFile(DATA / "tiny.pth") as source, zipfile.ZipFile(tmp_path / "big.pth", "w") as target:
        for entry in source.infolist():
            body = source.read(entry)
            if "/data/" in entry.filename:
                body = np.frombuffer(body, ">u4").byteswap().tobytes()
            target.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else body)
    assert_equal(load(NAME, tmp_path / "big.pth", **TINY), load(NAME, DATA / "tiny.pth", **TINY))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [-1, -4]}, "'a' are not where"),
        ({"shape": [3]}, "'a' are not where"),
        ({"data_offsets": [0, 1 << 40]}, "'a' are not where"),
        ({"data_offsets": [8, 24]}, "are not where"),
        ({"data_offsets": [0]}, "description that cannot be read"),
        ({"dtype": "F8_E5M2"}, "description that cannot be read"),
        ({"dtype": None}, "description that cannot be read"),
    ],
)
def test_safetensors_whose_header_is_wrong(changes, message, tmp_path):
    arrays = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    assert read_safetensors(write_safetensors(tmp_path / "a.safetensors", arrays)).keys() == {"a", "b"}
    with pytest.raises(WeightsFileError, match=message):
        read_safetensors(write_safetensors(tmp_path / "a.safetensors", arrays, a=changes))
    for text in (b"[]", b"{", b"1" * 20, b"[" * 100_000):
        (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(WeightsFileError, match="not a safetensors file"):
            read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("ema", [False, True])
def test_a_run_of_ours(ema, tmp_path):
    model = cnnjax.create_model("lenet5", num_classes=10)
    images = jnp.zeros((1, 28, 28, 1))
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), images, ema=ema)
    if ema:
        state = state.replace(ema=jax.tree.map(lambda leaf: leaf + 1, state.ema))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, state.replace(params=jax.tree.map(jnp.zeros_like, state.params)), {})
        checkpoints.save(10, state, {})
    expected = state.eval_variables["params"]
    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "10"):
        assert_equal(load("lenet5", place, num_classes=10)["params"], expected)
    assert load("lenet5", tmp_path, num_classes=3, redraw_head=jax.random.key(0))["params"]["head"]["classifier"][
        "kernel"
    ].shape == (84, 3)
    with pytest.raises(ValueError, match="lenet5_1998: the state dict does not fit"):
        load("lenet5_1998", tmp_path, num_classes=10)
    for file in (tmp_path / "checkpoints" / "10" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 5000:
            file.write_bytes(file.read_bytes()[:20] + bytes(file.stat().st_size - 20))
    with pytest.raises(WeightsFileError, match="checkpoint .*10 is damaged"):
        load("lenet5", tmp_path, num_classes=10)


def test_runs_of_networks_that_flatten_have_weights_for_their_size(tmp_path):
    name, size, channels = "lenet5", 20, 3
    model = cnnjax.create_model(name, num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))["params"]
    count = iter(range(1000))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, next(count), np.float32), shapes)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, {"params": params}, {})
    resolved = {"image_size": size, "mean": [0.5] * channels, "std": [0.5] * channels, "label_names": list("abcde")}
    (tmp_path / "config.json").write_text(json.dumps({"config": {"model": name}, "resolved": resolved}))
    loaded = load(name, tmp_path, num_classes=5)["params"]
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    other = load(name, tmp_path, num_classes=7, redraw_head=jax.random.key(0))["params"]
    assert other["head"]["classifier"]["kernel"].shape[1] == 7
    # Without the run's word for it, the size has to be given.
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=rf"{name} flattens its maps.* one size of images.*say which: image_size="):
        load(name, tmp_path, num_classes=5)
    jax.tree.map(np.testing.assert_array_equal, load(name, tmp_path, num_classes=5, image_size=size)["params"], params)


def test_files_of_networks_that_flatten_take_the_size_of_their_images():
    shapes = reference_shapes("lenet5", source="torch", num_classes=10, image_size=20)
    state = {key: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match="here 28 x 28 pixels; if they were trained with another, say which"):
        from_state_dict("lenet5", state, source="torch")
    variables = from_state_dict("lenet5", state, source="torch", image_size=20)
    with pytest.raises(ValueError, match="so that its weights fit one size of images, here 32 x 32 pixels"):
        from_state_dict("lenet5", state, source="torch", image_size=32)
    back = to_state_dict("lenet5", variables, source="torch", image_size=20)
    assert back.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
    images = jnp.asarray(np.random.default_rng(1).standard_normal((1, 20, 20, 1)), jnp.float32)
    assert cnnjax.create_model("lenet5", num_classes=10).apply(variables, images).shape == (1, 10)


@pytest.mark.slow
def test_memory_stays_near_the_size_of_the_file(tmp_path):
    """In a process of its own: weights of 45 MB, of which the peak may hold 2.2 times as much."""
    arrays = {name: np.ones(shape, np.float32) for name, shape in reference_shapes("resnet18").items()}
    path = write_safetensors(tmp_path / "resnet18.safetensors", arrays)
    code = rf"""
        import os, re
        import cnnjax, jax, numpy as np
        cnnjax.pretrained.from_state_dict("lenet5", cnnjax.pretrained.to_state_dict("lenet5", jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(cnnjax.create_model("lenet5", num_classes=10).init, jax.random.key(0),
                           jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))), source="torch"), source="torch")
        cnnjax.pretrained.reference_shapes("resnet18")
        peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
        before = peak()
        variables = jax.block_until_ready(cnnjax.pretrained.load("resnet18", {str(path)!r}))
        print((peak() - before) / os.path.getsize({str(path)!r}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 2.2
