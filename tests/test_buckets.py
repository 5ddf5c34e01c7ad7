"""Runs and data in buckets: a folder stands for what ``gs://`` leads to."""

import io
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from etils.epath import backend, gpath
from PIL import Image
from rich.console import Console

import cnnjax
from cnnjax.buckets import BucketError, Mirror, fetch
from cnnjax.data import load_dataset
from cnnjax.places import PathError, local_path, url_of
from cnnjax.runs import WorkdirInUseError, locked
from cnnjax.training import TrainConfig, fit


class Store(type(backend.os_backend)):
    """Buckets as folders. Objects appear when they are closed; none is appended to or renamed."""

    def __init__(self, root):
        self.root = root
        self.broken = False
        self.written = []

    def place(self, path):
        if self.broken:
            raise RuntimeError("401 Unauthorized")
        return self.root / os.fspath(path).removeprefix("gs://")

    def open(self, path, mode):
        assert mode in ("r", "rb", "w", "wb")
        if "w" in mode:
            self.written.append(os.fspath(path))
            self.place(path).parent.mkdir(parents=True, exist_ok=True)
        return self.place(path).open(mode)

    def exists(self, path):
        return self.place(path).exists()

    def isdir(self, path):
        return self.place(path).is_dir()

    def listdir(self, path):
        return os.listdir(self.place(path))

    def remove(self, path):
        self.place(path).unlink()

    def stat(self, path):
        return super().stat(self.place(path))

    def rename(self, path, dst):
        raise AssertionError

    makedirs = mkdir = glob = walk = rmtree = replace = copy = rename


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "buckets").mkdir()
    made = Store(tmp_path / "buckets")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", made)
    return made


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_urls_of_buckets_stand_for_copies(tmp_path, store):
    path = local_path("gs://b/run 1/x", "workdir", buckets=True)
    assert path == tmp_path / "cache" / "buckets" / "gs" / "b" / "run 1" / "x"
    assert url_of(path) == "gs://b/run 1/x"
    # As `pathlib` writes it.
    config = TrainConfig(workdir=Path("gs://b/run"))
    assert config.run_directory == tmp_path / "cache" / "buckets" / "gs" / "b" / "run"
    assert config.to_json()["workdir"] == "gs://b/run"
    assert TrainConfig.from_json(config.to_json()) == config
    assert url_of(Path("runs/x")) is None
    for url in ("gs://", "gs://b/../c"):
        with pytest.raises(PathError, match=r"workdir must be gs://BUCKET/PATH"):
            local_path(url, "workdir", buckets=True)


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_on_another_machine_and_is_read(tmp_path, store):
    bucket = tmp_path / "buckets" / "b" / "run"
    (tmp_path / "data").mkdir()
    config = TrainConfig(
        workdir=Path("gs://b/run"),
        data_dir=tmp_path / "data",
        train_split="train[:448]",
        test_split="test[:64]",
        epochs=1,
        parallel="single",
        log_steps=1,
        checkpoint_steps=2,
    )
    seen = []

    def stop(record):
        seen.append(json.loads((bucket / "lock.json").read_text())["pid"])
        if record["step"] == 3:
            # Sent as soon as it was written.
            assert "checkpoints/2/state/_METADATA" in files(bucket)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, Console(file=io.StringIO()), loggers=[stop])
    assert set(seen) == {os.getpid()}
    assert "lock.json" not in files(bucket)
    shutil.rmtree(tmp_path / "cache")
    text = io.StringIO()
    result = fit(config, Console(file=text, width=200))
    assert "Going on from step 2 of 7" in text.getvalue()
    assert "Files are in gs://b/run" in text.getvalue()
    copy = config.run_directory
    assert files(bucket) == files(copy)
    assert {name.split("/")[1] for name in files(bucket) if name.startswith("checkpoints/")} == {"6", "7"}
    assert store.written[-1] == "gs://b/run/result.json"
    shutil.rmtree(tmp_path / "cache")
    assert cnnjax.load_run("gs://b/run").step == result["best_step"]
    # A complete run is left alone.
    store.written.clear()
    assert fit(config, Console(file=io.StringIO())) == result
    assert store.written == ["gs://b/run/lock.json"]


def test_a_copy_is_made_like_its_bucket(tmp_path, store):
    bucket = tmp_path / "buckets" / "b"
    (bucket / "deep").mkdir(parents=True)
    (bucket / "deep" / "x").write_text("1")
    copy = fetch(local_path("gs://b", "workdir", buckets=True))
    assert files(copy) == {"deep/x"}
    (copy / "stray").write_text("")
    (bucket / "deep" / "x").unlink()
    (bucket / "deep" / "y").write_text("2")
    assert files(fetch(copy)) == {"deep/y"}
    # Of the same size, at another time.
    (bucket / "deep" / "y").write_text("3")
    os.utime(bucket / "deep" / "y", (5, 5))
    assert (fetch(copy) / "deep" / "y").read_text() == "3"


def test_what_changes_is_sent_and_what_is_gone_is_removed(tmp_path, store):
    with locked(local_path("gs://b/run", "workdir", buckets=True)):
        folder = local_path("gs://b/run", "workdir", buckets=True)
        mirror = Mirror(folder, "gs://b/run")
        for name in ("result.json", "x", "z", ".part", "3.orbax-checkpoint-tmp/x"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("1")
        mirror.push()
        assert [Path(url).name for url in store.written] == ["lock.json", "x", "z", "result.json"]
        store.written.clear()
        (folder / "x").write_text("23")
        (folder / "z").unlink()
        # What is not sent yet outlives being read meanwhile.
        assert (fetch(folder) / "x").read_text() == "23"
        mirror.push()
        assert [Path(url).name for url in store.written] == ["x"]
        assert files(tmp_path / "buckets") == {f"b/run/{name}" for name in ("lock.json", "x", "result.json")}


def test_locks_in_buckets_are_respected(tmp_path, store):
    folder = local_path("gs://b/run", "workdir", buckets=True)
    lock = tmp_path / "buckets" / "b" / "run" / "lock.json"
    lock.parent.mkdir(parents=True)
    theirs = {"host": "tpu-3", "pid": 7, "since": "2026-01-02T03:04:05+00:00"}
    lock.write_text(json.dumps(theirs))
    with (
        pytest.raises(
            WorkdirInUseError, match="'gs://b/run' is in use by process 7 on tpu-3 .* remove gs://b/run/lock"
        ),
        locked(folder),
    ):
        raise AssertionError
    assert json.loads(lock.read_text()) == theirs
    assert not folder.exists()
    # This machine's, whose process is gone.
    lock.write_text(json.dumps(theirs | {"host": socket.gethostname(), "pid": os.getppid(), "started": "1"}))
    with locked(folder):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_of_two_that_lock_a_bucket_in_one_moment_one_gets_it(tmp_path, store, monkeypatch):
    folder = local_path("gs://b/run", "workdir", buckets=True)
    write = Mirror.write_lock
    theirs = json.dumps({"host": "tpu-3", "pid": 7, "since": "now"})
    monkeypatch.setattr(Mirror, "write_lock", lambda self, text: (write(self, text), write(self, theirs)))
    with pytest.raises(WorkdirInUseError, match="by process 7 on tpu-3"), locked(folder):
        raise AssertionError
    assert (tmp_path / "buckets" / "b" / "run" / "lock.json").read_text() == theirs


def test_buckets_that_cannot_be_reached_are_one_sentence(tmp_path, store):
    folder = local_path("gs://b/run", "workdir", buckets=True)
    store.broken = True
    expected = "gs://b/run cannot be read: 401 Unauthorized; check the bucket's name, access and network"
    with pytest.raises(BucketError, match=expected):
        fetch(folder)
    with pytest.raises(BucketError, match=expected):
        fit(TrainConfig(workdir=Path("gs://b/run")))
    store.broken = False

    def break_it():
        with locked(folder):
            (folder / "x").write_text("1")
            store.broken = True

    with pytest.raises(BucketError, match="gs://b/run cannot be written: 401"):
        break_it()
    # What could not be sent is still here.
    assert (folder / "x").read_text() == "1"


def test_data_in_buckets_is_copied_first(tmp_path, store):
    bucket = tmp_path / "buckets" / "b"
    for kind in "ab":
        (bucket / "folder" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), number).save(bucket / "folder" / kind / f"{number}.png")
    rows = [f"{kind}/{number}.png,{kind}" for kind in "ab" for number in range(3)]
    (bucket / "folder" / "list.csv").write_text("\n".join(["path,label", *rows]))
    images = np.zeros((10, 8, 8, 1), np.uint8)
    np.savez(bucket / "x.npz", images=images, labels=np.arange(10) % 2)
    for name, url in (("folder", "gs://b/folder"), ("csv", "gs://b/folder/list.csv"), ("npz", "gs://b/x.npz")):
        dataset = load_dataset(name, url)
        assert dataset.num_classes == 2
        assert dataset.train.read(np.array([0]))[0][0].shape == (8, 8, 1)
    assert store.written == []
    # Of a folder of prepared sets, the one that is asked for.
    (tmp_path / "prepared").mkdir()
    load_dataset("digits", tmp_path / "prepared")
    shutil.copytree(tmp_path / "prepared", bucket / "sets")
    (bucket / "sets" / "other").mkdir()
    dataset = load_dataset("digits:1.0.0", "gs://b/sets")
    assert len(dataset.train) == 1438
    assert [path.name for path in (tmp_path / "cache" / "buckets" / "gs" / "b" / "sets").iterdir()] == ["digits"]
