"""Configs are flat, and their flags are shown in groups."""

import dataclasses
import json
import re

import pytest

from cnnjax.training import ConfigError, ImageToImageConfig, TrainConfig
from cnnjax.training.flags import groups_of, helps_of, parse, parse_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ImageToImageConfig):
    """A run."""

    model: str = "unet"
    dataset: str = "scenes"
    """What is drawn."""
    epochs: float = 3
    size: int
    """Pixels."""


@dataclasses.dataclass(frozen=True)
class Other:
    """No run."""

    size: int = 1
    """Metres."""

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError(f"size must be at least 1, got {self.size}")


def test_every_flag_is_in_one_group_and_has_one_text():
    for config in (TrainConfig, Config):
        groups = groups_of(config)
        names = [name for group in groups.values() for name in group]
        assert sorted(names) == sorted(field.name for field in dataclasses.fields(config))
        assert helps_of(config).keys() == set(names)
        assert {"dataset", "augment"} <= set(groups["data"])
        assert {"model", "dtype"} <= set(groups["network"])
        assert {"epochs", "learning_rate"} <= set(groups["optimisation"])
        assert {"workdir", "seed"} <= set(groups["run"])
    assert groups.keys() == {"data", "network", "optimisation", "run", "own"}
    assert groups["own"] == ["size"]
    assert {"weights", "frozen", "unfreeze"} <= set(groups_of(TrainConfig)["network"])
    # What a config says of a flag counts before what its group does.
    texts = helps_of(Config)
    assert (texts["dataset"], texts["epochs"]) == ("What is drawn.", "Number of passes over the training images.")


def test_the_file_is_flat_in_the_order_of_the_groups():
    config = Config(size=3, augment=("mirror",))
    found = json.loads(json.dumps(config.to_json()))
    assert list(found) == [name for group in groups_of(Config).values() for name in group]
    assert found == {**vars(config), "augment": ["mirror"]}


def test_help_is_grouped(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Config, ["--help"], "What it is for.")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    titles = re.findall(r"^\W*(\w+) options\b", text, re.MULTILINE)
    assert titles == ["data", "network", "optimisation", "run"]
    assert "What it is for." in text
    assert "--size INT" in text
    assert "Pixels. (required)" in " ".join(text.split())
    assert "--data." not in text


def test_flags_are_flat_and_defaults_can_be_given():
    config = parse(Config, ["--size", "4", "--epochs", "5", "--augment", "mirror", "crop:2"], None, {"seed": 7})
    assert config == Config(size=4, epochs=5, augment=("mirror", "crop:2"), seed=7)
    commands = {"train": Config, "measure": Other}
    assert parse_command(commands, ["train", "--size", "4"], None) == Config(size=4)
    assert parse_command(commands, ["measure", "--size", "4"], None) == Other(4)


def test_what_a_config_refuses_is_left_to_the_script():
    with pytest.raises(ConfigError, match="^epochs must be above 0 and finite, got 0"):
        parse(Config, ["--size", "4", "--epochs", "0"], None)
    with pytest.raises(ConfigError, match="^size must be at least 1, got 0"):
        parse_command({"train": Config, "measure": Other}, ["measure", "--size", "0"], None)


def test_unknown_flags_and_missing_ones_are_named(capsys):
    for flags, expected in ((["--size", "4", "--epoch", "3"], "--epochs FLOAT"), ([], "--size")):
        with pytest.raises(SystemExit) as stop:
            parse(Config, flags, None)
        assert stop.value.code == 2
        assert expected in capsys.readouterr().err
