"""Paths as users write them: home folders, URLs, and characters that mean something elsewhere."""

import pwd
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataError, load_dataset
from cnnjax.places import PathError, cache_folder, local_path, output_file
from cnnjax.runs import Checkpoints, WorkdirError, load_run
from cnnjax.runs.reader import read_run
from cnnjax.training import TrainConfig, fit


@pytest.fixture
def homeless(monkeypatch):
    """Be a user with a number alone, as containers run programs."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "CNNJAX_CACHE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_home_folders_are_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = TrainConfig(workdir=Path("~/runs/x"), data_dir=Path("~/data"))
    assert config.run_directory == Path("/home/someone/runs/x")
    assert config.data_dir == Path("/home/someone/data")
    assert config.to_json()["workdir"] == "/home/someone/runs/x"
    assert local_path("~", "workdir") == Path("/home/someone")
    monkeypatch.delenv("CNNJAX_CACHE", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/cnnjax")


@pytest.mark.parametrize("scheme", ["s3", "hdfs", "foo", "file", "hf"])
def test_urls_are_refused_by_name_before_anything_is_written(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"{scheme}://bucket/run"
    expected = (
        f"workdir must be a folder or file of this machine or gs://, and {scheme}:// is not supported, got '{url}'"
    )
    with pytest.raises(PathError, match=expected):
        TrainConfig(workdir=Path(url))
    with pytest.raises(PathError, match=expected):
        load_run(url)
    with pytest.raises(PathError, match=expected.replace("workdir", "data_dir")):
        TrainConfig(data_dir=Path(url))
    for name in ("folder", "csv", "npz", "digits"):
        with pytest.raises(PathError, match=expected.replace("workdir", "data_dir")):
            load_dataset(name, url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a/b", "/a:b", "a:b/c", "C:/drive", "1:/x", "/gs://x"])
def test_paths_that_look_a_little_like_urls_are_paths(path):
    assert local_path(path, "workdir") == Path(path)


def test_without_a_home_folder_it_is_said_where_one_is_needed(homeless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PathError, match="workdir '~/x' is in a home folder that is not there; set HOME, or give a pa"):
        TrainConfig(workdir=Path("~/x"))
    with pytest.raises(DataError, match="'digits' is looked for in ~/tensorflow_datasets, and there is no home folder"):
        load_dataset("digits")
    assert cache_folder() is None
    for kind in "ab":
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8)).save(tmp_path / "data" / kind / f"{number}.png")
    # What is found of images is kept nowhere.
    assert load_dataset("folder", tmp_path / "data").label_names == ("a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_cache_that_cannot_be_written_is_told_and_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "file"))
    for kind in "ab":
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8)).save(tmp_path / "data" / kind / f"{number}.png")
    assert len(load_dataset("folder", tmp_path / "data").train) == 2
    assert "the next start looks through the images again" in caplog.text


def test_checkpoints_are_read_from_folders_with_any_name(tmp_path):
    workdir = tmp_path / "ä b#c?d%20e%f'g 日本"
    state = {"params": {"stem": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {"epoch": 1})
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        found = checkpoints.restore_newest(state)
    assert found is not None
    assert found[2] == {"epoch": 1}
    read = read_run(workdir)
    jax.tree.map(np.testing.assert_array_equal, read["params"], state["params"])
    assert [path.name for path in tmp_path.iterdir()] == [workdir.name]


@pytest.mark.parametrize("name", ["a*b", "[x]", "a\\b"])
def test_folders_that_checkpoints_would_be_lost_in_are_refused(name, tmp_path):
    config = TrainConfig(workdir=tmp_path / name, data_dir=tmp_path)
    with pytest.raises(WorkdirError, match=r"must not hold .*, which Orbax, that writes checkpoints, takes for"):
        fit(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a*b", "a?b"])
def test_folders_that_tfds_takes_for_patterns_are_refused(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"must not hold \* or \?, which TFDS takes for a pattern"):
        load_dataset("digits", tmp_path / name)


def test_what_is_made_of_a_file_goes_where_it_is_asked_for_or_to_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_file(None, "predict", "cat.png") == Path("outputs/predict/cat.png")
    assert output_file(Path("deep/er/x.png"), "predict", "cat.png") == Path("deep/er/x.png")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "er", "outputs", "predict"]
