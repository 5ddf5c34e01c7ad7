import dataclasses

import pytest

from cnnjax.training import RECIPES, ConfigError, TrainConfig, parse_config
from cnnjax.training.classifier import aux_weight
from cnnjax.training.config import OF_SCHEDULES
from cnnjax.training.setup import make_config_schedule


def test_the_default_is_lenet_on_digits():
    config = parse_config([])
    assert config == RECIPES["digits-lenet5"].config == TrainConfig()
    assert (config.model, config.dataset) == ("lenet5", "digits")
    assert str(config.run_directory) == "runs/lenet5-digits"


def test_flags_override_the_recipe():
    config = parse_config(
        ["--recipe", "cifar10-resnet20", "--epochs", "5", "--augment", "crop:2", "--data-dir", "/data"]
    )
    expected = dataclasses.replace(
        RECIPES["cifar10-resnet20"].config, epochs=5, augment=("crop:2",), data_dir=config.data_dir
    )
    assert config == expected
    assert str(config.data_dir) == "/data"
    assert parse_config(["--recipe=mnist-lenet5"]) == RECIPES["mnist-lenet5"].config


def test_the_learning_rate_follows_the_batch_if_asked():
    assert TrainConfig(learning_rate=0.1).peak_learning_rate == 0.1
    assert TrainConfig(learning_rate=0.1, batch_size=1024, base_batch_size=256).peak_learning_rate == 0.4


def test_fields_of_the_network_are_read_as_json():
    config = parse_config(["--model-fields", "dropout_rate=0.5", "activation=relu", "--zero-init-residual"])
    assert config.network_fields() == {"dropout_rate": 0.5, "activation": "relu", "zero_init_residual": True}
    assert config.to_json()["model_fields"] == ["dropout_rate=0.5", "activation=relu"]


def test_every_flag_has_a_line_of_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "epochs must be above 0 and finite, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("batch_size", -4, "batch_size must be at least 1, got -4"),
        ("learning_rate", -0.1, "learning_rate must be above 0 and finite, got -0.1"),
        ("learning_rate", float("nan"), "learning_rate must be above 0 and finite, got nan"),
        ("momentum", 1.0, "momentum must be at least 0 and below 1, got 1.0"),
        (
            "nesterov",
            True,
            "nesterov is for optimizer sgd, rmsprop, lars or muon, and optimizer is adamw: leave it out, got True",
        ),
        ("momentum", 0.5, "momentum is for optimizer sgd, .* and optimizer is adamw: leave it out, got 0.5"),
        (
            "milestones",
            (10.0,),
            r"milestones is for schedule multistep, and schedule is cosine: leave it out, got \(10",
        ),
        ("decay_epochs", 3.0, "decay_epochs is for schedule step or exponential, and schedule is cosine"),
        ("decay_rate", 0.5, "decay_rate is for schedule step, multistep or exponential, and schedule is cosine"),
        ("power", 2.0, "power is for schedule polynomial, and schedule is cosine"),
        ("start_factor", 0.5, "start_factor is where warm-up starts, and warmup_epochs is 0: leave it out, got 0.5"),
        ("weight_decay", -1.0, "weight_decay must be at least 0"),
        ("warmup_epochs", 30.0, "warmup_epochs must be at least 0 and below epochs"),
        ("label_smoothing", 1.0, "label_smoothing must be"),
        ("ema_decay", 1.0, "ema_decay must be"),
        ("image_size", 0, "image_size must be at least 1, got 0"),
        ("augment", ("crop:-1",), "padding of Crop must be at least 0"),
        ("seed", -1, "seed must be from 0"),
        ("log_steps", 0, "log_steps must be at least 1"),
        ("checkpoint_steps", -1, "checkpoint_steps must be at least 0"),
        ("memory_budget_mib", -1, "memory_budget_mib must be at least 0"),
        ("accumulate", 0, "accumulate must be at least 1, got 0"),
        ("accumulate", 7, r"accumulate must be a divisor of batch_size \(64\), got 7"),
        ("steps_per_dispatch", 0, "steps_per_dispatch must be at least 1, got 0"),
        ("patience", -1, "patience must be at least 0"),
        ("aux_weight", -0.3, "aux_weight must be at least 0"),
        ("l1", -1.0, "l1 must be at least 0"),
        ("l2", float("inf"), "l2 must be at least 0 and finite, got inf"),
        ("clip_value", 0.0, "clip_value must be above 0"),
        ("clip_norm", -1.0, "clip_norm must be above 0"),
        ("base_batch_size", 0, "base_batch_size must be at least 1"),
        ("start_factor", 1.5, "start_factor must be from 0 to 1"),
        ("final_factor", -0.5, "final_factor must be from 0 to 1"),
        ("milestones", (10.0, 30.0), r"milestones must be above 0 and below epochs \(30\), got \(10.0, 30.0\)"),
        ("decay_epochs", 30.0, r"decay_epochs must be above 0 and below epochs \(30\), got 30.0"),
        ("schedule", "step", "decay_epochs must be given for schedule step, got None"),
        ("decay_rate", 0.0, "decay_rate must be above 0 and at most 1"),
        ("power", 0.0, "power must be above 0"),
        ("model_fields", ("dropout",), "model_fields must be NAME=VALUE, got 'dropout'"),
        ("model", "resnet_50", "unknown model 'resnet_50'; did you mean resnet50"),
    ],
)
def test_impossible_values_are_refused_at_once(field, value, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant", "final_factor": 0.1}, "final_factor is for schedule cosine or polynomial"),
        (
            {"schedule": "onecycle", "warmup_epochs": 3.0, "start_factor": 0.5},
            "start_factor is for schedule constant, st",
        ),
    ],
)
def test_flags_of_another_schedule_are_refused(fields, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig(**fields)


def test_every_flag_of_a_schedule_or_optimizer_is_used_by_one():
    """What is refused elsewhere changes the rate, or the update, where it is taken."""
    changed = {"milestones": (10.0,), "decay_epochs": 7.0, "decay_rate": 0.5, "final_factor": 0.3, "power": 2.0}
    others = {"step": {"decay_epochs": 10.0}, "exponential": {"decay_epochs": 10.0}}
    for name, value in (changed | {"start_factor": 0.5}).items():
        for schedule in OF_SCHEDULES[name]:
            fields = {"schedule": schedule, "warmup_epochs": 4.0, **others.get(schedule, {})}
            plain, other = (TrainConfig(**(fields | more)) for more in ({}, {name: value}))
            rates = [
                [float(rate(step)) for step in range(30)]
                for rate in (make_config_schedule(config, 30, 1.0) for config in (plain, other))
            ]
            assert rates[0] != rates[1], (name, schedule)


def test_what_runs_of_older_versions_ignored_is_left_out():
    saved = TrainConfig().to_json() | {"milestones": [3.0], "momentum": 0.5, "start_factor": 0.1, "cropping": 3}
    assert TrainConfig.from_json(saved) == TrainConfig()
    assert TrainConfig.from_json({"model": "resnet20", "augment": ["mirror"]}).augment == ("mirror",)


def test_auxiliary_heads_weigh_as_published():
    for model, expected in (("googlenet", 0.3), ("inception_v3", 0.4)):
        assert aux_weight(TrainConfig(model=model), {"aux1": {}, "head": {}}) == expected
        assert aux_weight(TrainConfig(model=model), {"head": {}}) == 0
        assert aux_weight(TrainConfig(model=model, aux_weight=0.1), {"aux1": {}}) == 0.1
    with pytest.raises(ConfigError, match="aux_weight is 0.3, but googlenet has no auxiliary heads; .*aux_classifiers"):
        aux_weight(TrainConfig(model="googlenet", aux_weight=0.3), {"head": {}})


def test_what_has_no_labels_cannot_be_smoothed():
    with pytest.raises(ConfigError, match="label_smoothing must be 0 with loss mse, got 0.1"):
        TrainConfig(loss="mse", label_smoothing=0.1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--bach-size", "3"], "--batch-size"),
        (["--batch-size", "many"], "batch-size"),
        (["--optimizer", "sdg"], "sgd"),
        (["--parallel", "tpu"], "pmap"),
    ],
)
def test_unknown_flags_and_values_say_what_is_allowed(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(arguments)
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
