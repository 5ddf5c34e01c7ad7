"""What a run notes when it begins, and what may differ when it goes on."""

import json

import jax
import pytest

from cnnjax.runs import RunDirectory, WorkdirError
from cnnjax.training import setup
from cnnjax.training.config import TrainConfig
from cnnjax.training.setup import device_name, gpu_libraries

RESOLVED = {"mean": [0.5], "device": "cpu, of another kind", "resizer": "pillow 1.0"}


@pytest.fixture
def directory(tmp_path):
    directory = RunDirectory(tmp_path / "run", TrainConfig(workdir=tmp_path / "run"))
    directory.create(RESOLVED)
    return directory


def test_the_same_device_and_compiler_need_no_notice(directory):
    assert directory.check_resolved(RESOLVED) == []


def test_another_device_compiler_or_resizer_may_round_otherwise(directory):
    file = directory.config_file
    saved = json.loads(file.read_text())
    current = saved["versions"]["jaxlib"]
    saved["versions"]["jaxlib"] = "0.1.2"
    file.write_text(json.dumps(saved))
    device, resizer, compiler = directory.check_resolved(RESOLVED | {"device": "cuda", "resizer": "pillow 2.0"})
    assert device == (
        "device: 'cpu, of another kind' there, 'cuda' now: results may differ by rounding from a run on one device"
    )
    assert resizer.startswith("resizer: 'pillow 1.0' there, 'pillow 2.0' now: images may differ by rounding")
    assert compiler == (
        f"jaxlib: 0.1.2 there, {current} now: results may differ by rounding from a run with one version"
    )


def test_onednn_may_round_otherwise(directory):
    notice = "onednn: {} there, {} now: results may differ by rounding from a run with one setting throughout"
    # A run of an earlier version.
    assert "onednn" not in json.loads(directory.config_file.read_text())["resolved"]
    assert directory.check_resolved(RESOLVED | {"onednn": False}) == []
    assert directory.check_resolved(RESOLVED | {"onednn": True}) == [notice.format(False, True)]

    saved = json.loads(directory.config_file.read_text())
    saved["resolved"]["onednn"] = True
    directory.config_file.write_text(json.dumps(saved))
    assert directory.check_resolved(RESOLVED | {"onednn": True}) == []
    assert directory.check_resolved(RESOLVED | {"onednn": False}) == [notice.format(True, False)]


def test_another_cudnn_may_round_otherwise(directory, monkeypatch):
    assert gpu_libraries() == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(setup, "package_version", {"nvidia-cudnn-cu13": "9.1"}.get)
    assert gpu_libraries() == {"cudnn-cu13": "9.1"}
    saved = json.loads(directory.config_file.read_text())
    saved["resolved"] |= gpu_libraries()
    directory.config_file.write_text(json.dumps(saved))
    assert directory.check_resolved(RESOLVED | gpu_libraries()) == []
    # A run that goes on elsewhere hears of the device.
    assert directory.check_resolved(RESOLVED) == []
    assert directory.check_resolved(RESOLVED | {"cudnn-cu13": "9.2"}) == [
        "cudnn-cu13: '9.1' there, '9.2' now: results may differ by rounding from a run with one version"
    ]


def test_other_images_are_refused_on_whatever_device(directory):
    with pytest.raises(WorkdirError, match=r"mean: \[0.5\] there, \[0.4\] now"):
        directory.check_resolved(RESOLVED | {"mean": [0.4], "device": "cuda"})


def test_processors_are_told_apart(monkeypatch):
    name = device_name()
    assert name.startswith("cpu, ")
    assert len(name) > len("cpu, ")

    class Card:
        platform, device_kind = "gpu", "Some Card"

    monkeypatch.setattr(jax, "devices", lambda: [Card()])
    assert device_name() == "Some Card"
