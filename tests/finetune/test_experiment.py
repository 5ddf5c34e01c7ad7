"""Fine-tuning as a run: from weights, with parts frozen, by `experiments/finetune.py` and `experiments/train.py`."""

import json

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax.data import DataPipeline, load_dataset
from cnnjax.pretrained import weights_info
from cnnjax.training import Checkpoints, ClassifierSetup, ConfigError, classifier, parse_config
from cnnjax.training.loop import TrainingLoop

# The processes that tests run in have no others to look for.
ALONE = ["--parallel", "single", "--num-processes", "1"]
FEW = ["--train-examples", "128", "--test-examples", "50"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("finetune")


def arrays(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.read(checkpoints.steps[-1])[0]


def assert_equal_arrays(one, other):
    assert one.keys() == other.keys()
    for path, array in one.items():
        np.testing.assert_array_equal(array, other[path], err_msg=path)


@pytest.mark.slow
def test_a_run_from_weights(script, weights, data, monkeypatch, tmp_path, capsys):
    states = []
    original = ClassifierSetup.test

    def test(setup, state):
        states.append(jax.device_get(setup.devices.unreplicate(state)))
        return original(setup, state)

    monkeypatch.setattr(ClassifierSetup, "test", test)
    command = ["--weights", weights, "--workdir", str(tmp_path), "--epochs", "2", *ALONE, *data]
    assert script.main([*command, "--unfreeze", "0=head", "1=stage2", "--learning-rate-scale", "head=10"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in lines] == [1, 2]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["test_accuracy"] == lines[-1]["test_accuracy"]
    assert result["images_per_second"] > 0
    assert lines[0]["test_loss"] < 3
    first, second = states
    assert "params/stage2/conv1/kernel" in first.frozen
    assert second.frozen == {path for path in first.frozen if path.startswith("params/stage1")}
    np.testing.assert_array_equal(*(s.params["stage1"]["conv1"]["kernel"] for s in states))
    assert (first.params["stage2"]["conv1"]["kernel"] != second.params["stage2"]["conv1"]["kernel"]).any()
    # The weights were for another number of classes.
    assert first.params["head"]["classifier"]["kernel"].shape == (84, 10)
    # What was learnt can be used.
    run = cnnjax.load_run(tmp_path, "last")
    np.testing.assert_array_equal(
        run.variables["params"]["head"]["classifier"]["kernel"], second.params["head"]["classifier"]["kernel"]
    )
    assert run.label_names == tuple("0123456789")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_fewer_examples_are_the_first_ones_and_are_noted(script, load_script, data, tmp_path, capsys):
    command = ["--weights", "drawn", "--epochs", "1", "--workdir", str(tmp_path / "run"), *ALONE]
    assert script.main([*command, *FEW, *data]) == 0
    assert "128 training and 50 test images of 28x28 pixels" in capsys.readouterr().out
    noted = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (noted["config"]["train_examples"], noted["config"]["test_examples"]) == (128, 50)
    assert (noted["resolved"]["train_images"], noted["resolved"]["test_images"]) == (128, 50)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2
    # The test accuracy is that of the first fifty test images.
    run = cnnjax.load_run(tmp_path / "run", "last")
    test = DataPipeline.create(load_dataset("digits", data[1]), 28).test
    images, labels = test.read(np.arange(50))
    assert (run.logits(images).argmax(1) == labels).mean() == pytest.approx(result["test_accuracy"])
    evaluate = load_script("evaluate")
    assert evaluate.main(["--workdir", str(tmp_path / "run"), "--which", "last"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation-2.json").read_text())
    assert (found["test_images"], found["test_accuracy"]) == (50, pytest.approx(result["test_accuracy"]))
    assert script.main([*command, *FEW[:3], "60", *data]) == 2
    assert "test_examples: 50 there, 60 now" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(script, weights, data, tmp_path, monkeypatch, capsys):
    """Stopped when a part had just thawed and in the middle of that phase, with averages and batches in parts."""
    command = ["--weights", weights, "--epochs", "3", *ALONE, "--unfreeze", "0=head", "1=stage2"]
    command += ["--ema-decay", "0.5", "--accumulate", "2", "--clip-norm", "1", "--label-smoothing", "0.1"]
    command += [*FEW, "--checkpoint-steps", "1", *data]
    assert script.main([*command, "--workdir", str(tmp_path / "whole")]) == 0
    whole = arrays(tmp_path / "whole")
    # Nothing of what stays frozen moved, in the averages neither, and the optimizer knows nothing of it.
    start = cnnjax.pretrained.load("lenet5", weights, num_classes=7)["params"]
    for path in ("stage1/conv1/kernel", "stage1/conv1/bias"):
        for prefix in ("params", "ema/params"):
            np.testing.assert_array_equal(whole[f"{prefix}/{path}"], start["stage1"]["conv1"][path.split("/")[-1]])
    assert not [path for path in whole if path.startswith("opt_state") and "stage1" in path]
    assert [path for path in whole if path.startswith("opt_state") and "stage2" in path]
    assert (whole["ema/params/stage2/conv1/kernel"] != whole["params/stage2/conv1/kernel"]).any()
    take = TrainingLoop.take_steps
    for stop in (2, 3):

        def stopping(self, state, sums, batches, stop=stop):
            if self.step == stop:
                raise KeyboardInterrupt
            return take(self, state, sums, batches)

        parts = tmp_path / f"parts{stop}"
        monkeypatch.setattr(TrainingLoop, "take_steps", stopping)
        assert script.main([*command, "--workdir", str(parts)]) == 130
        monkeypatch.setattr(TrainingLoop, "take_steps", take)
        capsys.readouterr()
        assert script.main([*command, "--workdir", str(parts)]) == 0
        output = capsys.readouterr().out
        assert f"Going on from step {stop} of 6" in output
        assert "optimizer" not in output
        assert_equal_arrays(whole, arrays(parts))


@pytest.mark.slow
def test_it_is_train_py_with_other_defaults(script, load_script, weights, data, tmp_path):
    shared = ["--weights", weights, "--frozen", "stage1", "--epochs", "1", *ALONE, *FEW, *data]
    assert script.main([*shared, "--workdir", str(tmp_path / "finetune")]) == 0
    flags = ["--learning-rate", "1e-3", "--weight-decay", "1e-4", "--augment"]
    assert load_script("train").main([*shared, "--workdir", str(tmp_path / "train"), *flags]) == 0
    assert_equal_arrays(*(arrays(tmp_path / name) for name in ("finetune", "train")))
    name = script.Config(weights=weights).run_directory.name
    assert name == parse_config(["--weights", weights]).run_directory.name == "finetune-lenet5-digits"


@pytest.mark.slow
def test_parts_of_a_network_that_was_drawn_are_frozen_too(data, tmp_path, load_script):
    command = ["--frozen", "stage*", "--epochs", "1", "--workdir", str(tmp_path), *ALONE, *FEW, *data]
    assert load_script("train").main(command) == 0
    found = arrays(tmp_path)
    config = parse_config(command)
    drawn = ClassifierSetup.create(config).initial_state()
    np.testing.assert_array_equal(found["params/stage1/conv1/kernel"], drawn.params["stage1"]["conv1"]["kernel"])
    assert (found["params/head/classifier/kernel"] != drawn.params["head"]["classifier"]["kernel"]).any()


@pytest.mark.slow
def test_numbers_are_learnt_from_weights_of_a_classifier(script, weights, tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 28, 28), np.uint8)
    path = tmp_path / "numbers.npz"
    np.savez(path, images=images, labels=images.reshape(40, -1)[:, :2].astype(np.float32) / 255)
    command = ["--weights", weights, "--dataset", "npz", "--data-dir", str(path), "--loss", "mse", "--measure", "loss"]
    command += ["--epochs", "2", "--batch-size", "8", "--frozen", "stage1", "--workdir", str(tmp_path / "run")]
    assert script.main([*command, *ALONE]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"test_mse", "test_mae"} <= result.keys()
    run = cnnjax.load_run(tmp_path / "run")
    assert run.task == "regression"
    assert run.outputs(images[:2, ..., None]).shape == (2, 2)


def test_networks_that_flatten_are_told_to_keep_their_size(script, weights, data, tmp_path, capsys):
    command = ["--weights", weights, "--image-size", "32", "--workdir", str(tmp_path / "run"), *ALONE, *data]
    assert script.main(command) == 2
    assert "takes images of the size it was trained with alone; leave out --image-size" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frozen": ("a",), "unfreeze": ("0=b",)}, "both say what trains"),
        ({"unfreeze": ("head",)}, "unfreeze must be EPOCH=PATTERN,... with epochs from 0 .*, got 'head'"),
        ({"unfreeze": ("1.5=head",)}, "unfreeze must be EPOCH=PATTERN,..., got '1.5=head'"),
        ({"unfreeze": ("0=",)}, "unfreeze must be EPOCH=PATTERN,..., got '0='"),
        ({"unfreeze": ("1=head",)}, "unfreeze must say what trains from epoch 0 on, got 1=head; add 0=head"),
        ({"freeze_from": ("stem",)}, "freeze_from must be EPOCH=PATTERN,..., got 'stem'"),
        ({"freeze_from": ("1=stem",), "unfreeze": ("0=head",)}, "--freeze-from and --unfreeze both say what trains"),
        ({"weight_decay_scale": ("head=-1",)}, "PATTERN=FACTOR with a factor of at least 0 .*, got 'head=-1'"),
        ({"lookahead": "5,0.5"}, "lookahead must be STEPS,DECAY,POWER .*, got '5,0.5'"),
        ({"lookahead": "0,0.5,0"}, "at least 1 step .*, got '0,0.5,0'"),
        ({"lookahead": "5,0.5,0", "ema_decay": 0.9}, "lookahead must be left out with ema_decay"),
        ({"whitening_images": 9}, "whitening_images must be .* 0 with weights that are not drawn, got 9"),
        ({"learning_rate_scale": ("head",)}, "learning_rate_scale must be PATTERN=FACTOR .*, got 'head'"),
        ({"learning_rate_scale": ("head=0",)}, "PATTERN=FACTOR with a factor above 0 .*--frozen keeps.*, got 'head=0'"),
        ({"epochs": 0}, "epochs must be above 0 and finite, got 0"),
        ({"train_examples": 0}, "train_examples must be at least 1, got 0"),
        ({"test_examples": -1}, "test_examples must be at least 1, got -1"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"init": "he"}, "init must be left out with weights w, got he"),
        ({"model": "lenet6"}, "unknown model 'lenet6'"),
    ],
)
def test_impossible_configs_are_refused(script, fields, message):
    with pytest.raises(ConfigError, match=message.replace("PATTERN,..., got", r"PATTERN,\.\.\. .*, got")):
        script.Config(weights="w", **fields)


def test_phases_of_one_epoch_are_one(script):
    config = script.Config(weights="w", unfreeze=("0=head,stage2", "1=stage1", "0=stem"))
    assert config.freezing.phases == ((0, ("head", "stage2", "stem")), (1, ("stage1",)))


def test_augmentations_and_recipes_are_those_of_training(script):
    for parse in (parse_config, lambda flags: parse_config(flags, config=script.Config)):
        assert parse(["--weights", "w", "--augment", "mixup:0.2"]).augment == ("mixup:0.2",)
    config = parse_config(["--weights", "w", "--recipe", "tv-v2", "--epochs", "9"], config=script.Config)
    assert (config.recipe, config.weights, config.epochs, config.label_smoothing) == ("tv-v2", "w", 9, 0.1)
    with pytest.raises(ConfigError, match="unknown recipe 'tv-v9'"):
        parse_config(["--weights", "w", "--recipe", "tv-v9"], config=script.Config)


def test_what_to_start_from_has_to_be_said(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([])
    assert stop.value.code == 2
    assert "--weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "none.pth"], "there is no file"),
        (["--frozen", "stage9"], "pattern 'stage9' matches no parameter; near paths are stage"),
        (["--frozen", "**"], "freezes all 10 parameters"),
        (["--unfreeze", "0=head", "9=stage1"], "ends after 5 epochs, before something is"),
        (
            ["--freeze-from", "9=stage1"],
            "freeze_from names epoch 9, which must lie behind the start and before the end",
        ),
        (["--weight-decay-scale", "heat=3"], "pattern 'heat' matches no parameter; near paths are head"),
        (["--learning-rate-scale", "heat=3"], "pattern 'heat' matches no parameter; near paths are head"),
        (["--model", "mlp"], "does not fit"),
        (["--model", "unet"], "unet is a network for segmentation; take one whose task is classification"),
        (["--train-examples", "5000"], "train_examples must be from 1 to 1438"),
        (["--train-examples", "40"], "batch_size must be at most 40"),
    ],
)
def test_what_does_not_fit_is_refused(script, weights, data, flags, message, tmp_path, capsys):
    command = ["--weights", weights, *flags, "--workdir", str(tmp_path / "run"), *ALONE, *data]
    assert script.main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(script, weights, data, tmp_path, capsys):
    command = ["--weights", weights, "--workdir", str(tmp_path), *ALONE, *data]
    assert script.main([*command, "--frozen", "stage1", "--optimizer", "sgd", "--learning-rate", "1e30"]) == 2
    assert "error: the loss is nan at step" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "result.json").exists()


def test_weights_bring_their_network_and_its_fields(script, tmp_path):
    config = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = ["--weights", str(tmp_path), "--workdir", str(tmp_path / "run")]
    found = parse_config(command, None, script.Config)
    assert found.model == "efficientnet_b0"
    known = weights_info(found.weights, name=found.model)
    assert classifier._fields(found, known) == {"padding": "SAME", "epsilon": 1e-3}
    # What the command line says counts.
    found = parse_config([*command, "--model-fields", "epsilon=0.1"], None, script.Config)
    assert classifier._fields(found, known) == {"padding": "SAME", "epsilon": 0.1}
    with pytest.raises(ValueError, match="holds weights of efficientnet_b0, and lenet5 was asked for"):
        ClassifierSetup.create(parse_config([*command, "--model", "lenet5", *ALONE], None, script.Config))
