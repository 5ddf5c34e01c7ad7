import jax
import jax.numpy as jnp
import pytest

import cnnjax
from cnnjax.training import RECIPES, ConfigError, parse_config
from cnnjax.training.__main__ import main
from cnnjax.training.setup import make_config_schedule

# Training images of each data set that recipes are for.
EXAMPLES = {"digits": 1438, "mnist": 60_000, "cifar10": 50_000, "imagenet2012": 1_281_167}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_can_be_chosen_and_overridden_by_name(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert parse_config(["--recipe", name]) == recipe.config
    other = parse_config([f"--recipe={name}", "--seed", "7"])
    assert other.seed == 7
    assert other.augment == recipe.config.augment


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_can_be_run(name):
    """The network takes these fields and images, and the schedule is one of this run's length."""
    config = RECIPES[name].config
    model = cnnjax.create_model(config.model, num_classes=10, **config.network_fields())
    info = cnnjax.model_info(config.model)
    native = 28 if info.channels == 1 else 32
    size = config.image_size or (native if native >= info.min_size else info.input_size[0])
    assert size >= info.min_size
    assert (size - info.min_size) % info.size_step == 0
    images = jax.ShapeDtypeStruct((1, size, size, info.channels), jnp.float32)
    assert jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    steps_an_epoch = EXAMPLES[config.dataset] / config.batch_size
    schedule = make_config_schedule(config, round(config.epochs * steps_an_epoch), steps_an_epoch)
    top = float(schedule(round(config.warmup_epochs * steps_an_epoch)))
    # Steps of decay count from the start of the run.
    passed = config.warmup_epochs // (config.decay_epochs or config.epochs)
    assert top == pytest.approx(config.peak_learning_rate * config.decay_rate**passed, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tv-v1", "--schedule", "cosine"], {"schedule": "cosine", "milestones": ()}),
        (["tv-v1", "--schedule=step", "--decay-epochs", "30"], {"schedule": "step", "decay_epochs": 30.0}),
        (["paper-mobilenet_v2", "--schedule", "multistep"], {"decay_epochs": None, "decay_rate": 0.98}),
        (["paper-mobilenet_v2", "--schedule", "exponential"], {"decay_epochs": 1, "decay_rate": 0.98}),
        (["tv-v2", "--warmup-epochs", "0"], {"start_factor": 0.0}),
        (["paper-densenet121", "--optimizer=adamw"], {"nesterov": False, "momentum": 0.9}),
        (["paper-lenet5", "--optimizer", "lion"], {"momentum": 0.9}),
    ],
)
def test_what_belongs_to_a_recipes_schedule_or_optimizer_goes_with_it(arguments, expected):
    config = parse_config(["--recipe", *arguments])
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--decay-rate", "0.1"], "decay_rate is for schedule step, multistep or exponential, and schedule is cosine"),
        (
            ["--recipe", "paper-resnet50", "--optimizer", "lion", "--momentum=0.9"],
            "momentum is for .* optimizer is lion",
        ),
    ],
)
def test_flags_that_do_nothing_are_refused_even_with_their_defaults(arguments, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_config(arguments)


def test_recipes_say_where_they_are_from():
    for recipe in RECIPES.values():
        assert recipe.source
        assert recipe.published or recipe.source == "ours"
        assert recipe.verified or recipe.source != "ours"


def test_unknown_recipes_say_what_there_is():
    with pytest.raises(ConfigError, match="unknown recipe 'cifar10-resnet2'; did you mean cifar10-resnet20"):
        parse_config(["--recipe", "cifar10-resnet2"])
    with pytest.raises(ConfigError, match="there are digits-lenet5, mnist-lenet5"):
        parse_config(["--recipe", "x"])


def test_the_command_prints_them(capsys):
    assert main(["--recipes"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "paper-convnext_tiny" in text
    assert main(["timm-a3"]) == 0
    text = capsys.readouterr().out
    assert "arXiv:2110.00476" in text
    assert "\n  --optimizer lamb\n" in text
    assert "\n  --augment mirror randaugment:2,18 mixup-or-cutmix:mixup_alpha=0.1,cutmix_alpha=1\n" in text
    # What is printed is what the command line takes.
    flags = [part for line in text.splitlines() if line.startswith("  --") for part in line.split()]
    assert parse_config(["--recipe", "timm-a3", *flags]) == RECIPES["timm-a3"].config
    with pytest.raises(SystemExit):
        main(["timm-a4"])
    assert "did you mean" in capsys.readouterr().err
