"""Thousands of damaged and hostile files of each format: one clear error each, in little memory, and nothing runs."""

import io
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from file_weights import FIELDS, NAME, draw
from flax import serialization, traverse_util
from test_load import hostile_programs

from cnnjax.pretrained import WeightsFileError, reference_shapes
from cnnjax.pretrained.formats import find_reader

DATA = Path(__file__).parent / "data"
TINY = {"num_classes": 10, **FIELDS}
# What a file that is read could do to a machine, as Python itself reports it.
DEEDS = re.compile(
    r"os\.(system|exec|spawn|posix_spawn|fork|mkdir|rename|remove|rmdir|truncate|link|symlink|putenv|chmod|kill)"
    r"|subprocess\..*|socket\..*|shutil\..*|ctypes\..*|compile|pickle\.find_class|urllib\..*|open"
)
# Bytes that reading a file of a few kilobytes may take at most.
MEMORY = 128 * 2**20
ZIP, LEGACY, SAFETENSORS, MSGPACK = "tiny.pth", "tiny_legacy.pth", "tiny.safetensors", "tiny.msgpack"
H5, KERAS, OLD_H5 = "tiny.weights.h5", "tiny.keras", "tiny.h5"


class Watch:
    """Notes what Python's audit hooks report while it is on."""

    def __init__(self):
        self.on, self.deeds = False, []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if not self.on or not DEEDS.fullmatch(event):
            return
        # Reading files is what is asked for, and importing modules is no harm; writing and evaluating texts are.
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        if event == "compile" and arguments[1] != "<string>":
            return
        self.deeds.append((event, arguments))


@pytest.fixture(scope="module")
def watch():
    return Watch()


def whole(file):
    """Return the bytes of a file that is not damaged."""
    if file != MSGPACK:
        return (DATA / file).read_bytes()
    arrays = draw(reference_shapes(NAME, source="cnnjax", **TINY))
    flat = {
        f"{'batch_stats' if name.endswith(('mean', 'var')) else 'params'}/{name}": value
        for name, value in arrays.items()
    }
    return serialization.msgpack_serialize(traverse_util.unflatten_dict(flat, sep="/"))


def damage(content, rng):
    """Return bytes that were cut, changed, or made to say that something is huge."""
    changed = bytearray(content)
    # The beginning says most of how long the rest is.
    end = len(changed) if rng.random() < 0.5 else min(len(changed), 600)
    place = int(rng.integers(max(end, 1)))
    kind = rng.integers(6)
    if kind == 0:
        del changed[place:]
    elif kind == 1:
        for at in rng.integers(0, max(end, 1), rng.integers(1, 9)):
            changed[at % len(changed)] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        size = int(rng.choice([1, 2, 4, 8]))
        number = (2 ** int(rng.integers(4, 8 * size)) - int(rng.integers(2))) % 2 ** (8 * size)
        changed[place : place + size] = number.to_bytes(size, str(rng.choice(["little", "big"])))
    elif kind == 3:
        changed[place : place + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(40)))
    elif kind == 4:
        other = int(rng.integers(len(changed)))
        changed[place:place] = changed[other : other + int(rng.integers(200))]
    else:
        # Digits of texts.
        digits = [at for at in range(min(len(changed), 4000)) if 48 <= changed[at] < 58]
        for at in rng.choice(digits, min(len(digits), 3)) if digits else ():
            changed[at : at + 1] = str(10 ** int(rng.integers(1, 30))).encode()
    return bytes(changed)


def within_archive(content, rng):
    """Return a zip archive of PyTorch's with a damaged or hostile program, whose checksums are right."""
    target = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            body = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                body = hostile(body, rng)
            # What takes little room packed and much unpacked.
            if compression == zipfile.ZIP_DEFLATED and entry.filename.endswith("data/0"):
                body = bytes(2**22)
            new.writestr(entry.filename, body)
    return target.getvalue()


def hostile(program, rng):
    """Return a pickle that is damaged, or would do something, alone, around or beside the weights."""
    if rng.random() < 0.5:
        return damage(program, rng)
    programs = hostile_programs("/tmp/never-made")
    evil = programs[rng.integers(len(programs))]
    return damage(evil, rng) if rng.random() < 0.5 else beside(program, evil, rng)


def beside(program, evil, rng):
    """Return a pickle with an entry that would do something beside those of a state dict."""
    inner = re.sub(rb"^\x80.", b"", evil)[:-1]
    name = pickle.dumps("epoch", 2)[2:-1]
    ending = b"s" if rng.random() < 0.5 else b"sb"
    return program[:-1] + name + inner + ending + b"."


def damaged(file, content, rng):
    if file == ZIP and rng.random() < 0.6:
        return within_archive(content, rng)
    if file == LEGACY and rng.random() < 0.3:
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        return head + hostile(content[len(head) :], rng)
    return damage(content, rng)


def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def check(file, count, folder, watch):
    """Read files that were damaged in ``count`` ways, and return how many were refused."""
    content = whole(file)
    path = folder / file
    path.write_bytes(content)
    shapes = {name: np.shape(value) for name, value in flat(find_reader(path)(path)).items()}
    rng = np.random.default_rng([count, *file.encode()])
    refused = 0
    before = peak()
    for number in range(count):
        path.unlink()
        # HDF5 knows files that are open by more than their contents.
        path = folder / f"{number}-{file}"
        path.write_bytes(damaged(file, content, rng))
        watch.on = True
        try:
            # As `load` does: an array is read if its name and its shape are as they have to be.
            for name, value in flat(find_reader(path)(path)).items():
                if np.shape(value) == shapes.get(name):
                    assert np.asarray(value).shape == shapes[name]
        except WeightsFileError as error:
            refused += 1
            text = str(error)
            assert file in text
            assert "\n" not in text
            assert len(text) < 600
        finally:
            watch.on = False
    assert watch.deeds == []
    assert peak() - before < MEMORY
    return refused


def flat(content):
    return traverse_util.flatten_dict(dict(content), sep=".")


FEW = [ZIP, LEGACY, SAFETENSORS, MSGPACK]


@pytest.mark.parametrize("file", FEW)
def test_forty_damaged_files(file, tmp_path, watch):
    assert check(file, 40, tmp_path, watch) > 10


@pytest.mark.exhaustive
@pytest.mark.parametrize("file", FEW)
def test_two_thousand_damaged_files(file, tmp_path, watch):
    assert check(file, 2000, tmp_path, watch) > 500


@pytest.mark.pretrained
@pytest.mark.parametrize("file", [H5, KERAS, OLD_H5])
def test_forty_damaged_files_of_keras(file, tmp_path, watch):
    assert check(file, 40, tmp_path, watch) > 4


@pytest.mark.exhaustive
@pytest.mark.pretrained
@pytest.mark.parametrize("file", [H5, KERAS, OLD_H5])
def test_two_thousand_damaged_files_of_keras(file, tmp_path, watch):
    assert check(file, 2000, tmp_path, watch) > 500


def test_the_watch_notices(watch, tmp_path):
    """So that the tests above can fail."""
    watch.on = True
    (tmp_path / "made").mkdir()
    pickle.loads(pickle.dumps(print))
    eval("1 + 1")
    watch.on = False
    assert {event for event, _ in watch.deeds} == {"os.mkdir", "pickle.find_class", "compile"}
    watch.deeds.clear()
