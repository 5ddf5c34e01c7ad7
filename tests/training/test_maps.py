"""Maps that a run draws of the same images as it learns."""

import dataclasses
import io
import struct

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cnnjax.training import ConfigError, TrainConfig, fit


@pytest.fixture
def config(tmp_path):
    (tmp_path / "data").mkdir()
    # A network without convolutions compiles in no time.
    return TrainConfig(
        model="mlp",
        data_dir=tmp_path / "data",
        workdir=tmp_path / "run",
        epochs=2,
        parallel="single",
        explain_every=2,
    )


@pytest.mark.slow
def test_maps_are_drawn_after_every_so_many_epochs(config):
    fit(config, Console(file=io.StringIO()))
    assert [path.name for path in (config.workdir / "maps").iterdir()] == ["epoch-0002.png"]
    with Image.open(config.workdir / "maps" / "epoch-0002.png") as picture:
        # Four images: the image and two maps each.
        assert picture.size[1] > 4 * 200
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 200


def test_a_wrong_number_of_epochs_is_refused(config):
    with pytest.raises(ConfigError, match="explain_every must be at least 0, got -1"):
        dataclasses.replace(config, explain_every=-1)


@pytest.mark.extras
def test_tensorboard_gets_the_pictures(config):
    from tensorboardX.proto import event_pb2

    fit(dataclasses.replace(config, tensorboard=True), Console(file=io.StringIO()))
    (file,) = (config.workdir / "events" / "maps").iterdir()
    data, start, found = file.read_bytes(), 0, []
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        event = event_pb2.Event.FromString(data[start + 12 : start + 12 + size])
        start += 12 + size + 4
        found += [(value.tag, event.step, value.image.height > 500) for value in event.summary.value]
    assert len(found) == 1
    assert found[0][0] == "maps"
    assert found[0][2]
