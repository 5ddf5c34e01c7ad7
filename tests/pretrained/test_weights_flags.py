"""The flags that name a network with its weights."""

import argparse

import numpy as np
import pytest

from cnnjax.pretrained import reference_shapes, save
from cnnjax.pretrained.flags import add_network_flags, check_network_flags, open_network
from cnnjax.training import TrainConfig
from cnnjax.training.classifier import ClassifierSetup
from cnnjax.training.flags import ConfigError, helps_of

NAME = "resnet20"


@pytest.fixture
def file(tmp_path):
    """Return a file with the weights of `NAME` for two classes, 0 throughout, and moving averages of them, 1."""
    shapes = reference_shapes(NAME, source="torch", num_classes=2)
    arrays = {f"model.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {f"model_ema.module.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save(arrays, tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


def parse(*flags):
    parser = argparse.ArgumentParser()
    add_network_flags(parser, drawn=True)
    given = parser.parse_args(list(map(str, flags)))
    check_network_flags(parser, given, drawn=True)
    return given


def test_entry_and_channels_choose_and_adapt_weights(file):
    named = ("--weights", file, "--model", NAME, "--num-classes", 2)
    plain = open_network(parse(*named), "classification")
    kernel = plain.variables["params"]["stem"]["conv1"]["kernel"]
    assert (kernel.shape, float(kernel.max()), len(plain.preprocessing.mean)) == ((3, 3, 3, 16), 0, 3)
    grey = open_network(parse(*named, "--entry", "model_ema", "--channels", 1), "classification")
    kernel = grey.variables["params"]["stem"]["conv1"]["kernel"]
    assert (kernel.shape, float(kernel.min()), len(grey.preprocessing.mean)) == ((3, 3, 1, 16), 3, 1)
    with pytest.raises(ValueError, match="no entry 'ema' that holds the network; give one of these: entry='model', "):
        open_network(parse(*named, "--entry", "ema"), "classification")
    four = open_network(parse(*named, "--channels", 4), "classification")
    with pytest.raises(ValueError, match=r"takes images of 4 channels, and the picture has 3; give an array uint8"):
        four.classify(np.zeros((40, 40, 3), np.uint8))


def test_training_starts_from_the_same(file):
    flags = {"weights": str(file), "model": NAME, "dataset": "digits", "train_examples": 64, "test_examples": 8}
    setup = ClassifierSetup.create(TrainConfig(**flags, entry="model_ema", channels=1, batch_size=8))
    assert setup.start["params"]["stem"]["conv1"]["kernel"].shape == (3, 3, 1, 16)
    assert float(setup.start["params"]["stem"]["conv1"]["kernel"].min()) == 3
    assert len(setup.preprocess.mean) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--entry", "ema", "--model", NAME], "--entry goes with --weights"),
        (["--channels", "1", "--workdir", "runs/x"], "--channels goes with --weights"),
        (["--channels", "0", "--weights", "x.pth"], "--channels must be at least 1, got 0"),
        (["--num-classes", "-1", "--weights", "x.pth"], "--num-classes must be at least 0, got -1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse(*flags)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [{"entry": "ema"}, {"channels": 1}, {"channels": 0, "weights": "x.pth"}])
def test_configs_that_do_not_fit_are_refused(flags):
    with pytest.raises(ConfigError, match=r"(entry|channels) must be (left out with weights drawn|at least 1), got"):
        TrainConfig(**flags)


def test_scripts_of_both_kinds_say_the_same_of_them():
    parser = argparse.ArgumentParser()
    add_network_flags(parser)
    helps = {action.dest: action.help for action in parser._actions}
    assert {name: helps_of(TrainConfig)[name] for name in ("entry", "channels")} == {
        name: helps[name] for name in ("entry", "channels")
    }
    assert all(text.endswith(".") for name, text in helps.items() if name != "help")
