"""Measure what transfer is worth with few labels, on digits.

    python experiments/few_labels.py
    python experiments/few_labels.py --model resnet20 --dataset mnist --data-dir DIR --workdir runs/few-labels-mnist

A network learns the digits 0 to 4 and is then taught 5 to 9 from 1, 5, 20 and 100 examples per class: from scratch,
with only a new classifier on frozen features, with its last stage and head, and as a whole. Each is repeated with five
draws of examples. A new classifier on old layers learns at ten times their rate. The picture shows accuracy with its
standard deviation.

Files are in ``--workdir``: ``config.json``, ``result.json`` and ``transfer.png``. Exit codes: 0; 2 with the reason on
stderr; 130 if stopped by SIGINT.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from cnnjax import finetune
from cnnjax.data import DataPipeline, Preprocess, load_dataset
from cnnjax.data.source import ArraySplit
from cnnjax.models import create_model, model_info
from cnnjax.runs import RunDirectory, locked
from cnnjax.training import (
    ConfigError,
    TrainingError,
    eval_step,
    make_optimizer,
    require_one,
    run_command,
    train_step,
)
from cnnjax.training.config import require_classifier
from cnnjax.training.flags import Flags, parse
from cnnjax.training.metrics import means
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.visualize.canvas import new_figure, save_figure

LABELS_A_CLASS = (1, 5, 20, 100)
DRAWS = 5
STUDY_STEPS, STUDY_BATCH = 150, 32
NEW_HEAD_FACTOR = 10.0
OLD, NEW = range(5), range(5, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Flags):
    """Measure what transfer is worth with few labels."""

    model: str = "lenet5"
    """Classifier to use; python -m cnnjax.models lists them."""
    dataset: str = "digits"
    """Data set: digits (needs no download), another image-classification set of TFDS with ten classes, or your own
    images as folder, csv or npz."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets; for folder, csv and npz, the data itself."""
    train_examples: int | None = None
    """Number of training images to use, counted from the first; None uses all."""
    test_examples: int | None = None
    """Number of test images to use, counted from the first; None uses all."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None takes the network's size."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; a new classifier on old layers learns at ten times this rate."""
    workdir: Path | None = None
    """Folder to write to; None means runs/few-labels-<model>-<dataset>."""
    seed: int = 0
    """Seed of the first network and of all random draws after it."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        self.require(
            [
                (name, (count := getattr(self, name)) is None or count >= 1, "at least 1")
                for name in ("train_examples", "test_examples", "image_size")
            ]
        )
        self.require(
            [
                ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
                ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
            ]
        )
        require_classifier(self.model)

    @property
    def default_directory(self) -> str:
        """Folder of the files in runs/ unless ``workdir`` is given."""
        return f"few-labels-{self.model}-{self.dataset}"


def compile_init(model: nn.Module) -> Callable[[jax.Array, jax.Array], dict[str, Any]]:
    """Return the function of (key, images) that draws variables as the network's authors do."""
    # Draws of more than one dimension compile for seconds on CPU, unless XLA does not optimise them.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(model.init, compiler_options=options)


def study(config: Config, console: Console) -> dict[str, Any]:
    """Measure what transfer is worth with few labels, and return accuracies by method and labels per class."""
    require_one("few_labels.py")
    started = time.perf_counter()
    directory = RunDirectory(config.run_directory, config)
    if (result := directory.result()) is not None:
        console.print("The study is complete; nothing is left to do. Give another --workdir to repeat it.")
        return result
    info = model_info(config.model)
    dataset = load_dataset(config.dataset, config.data_dir).first(config.train_examples, config.test_examples)
    if dataset.num_classes != 10:
        raise ConfigError(f"the study divides ten classes, {config.dataset} has {dataset.num_classes}")
    size = config.image_size or info.input_size[0]
    pipeline = DataPipeline.create(dataset, size)
    if not isinstance(pipeline.train, ArraySplit) or not isinstance(pipeline.test, ArraySplit):
        raise ConfigError(f"the study needs images of one size that fit into memory; those of {config.dataset} do not")
    statistics_ = pipeline.statistics()
    assert statistics_ is not None
    preprocess = Preprocess(*statistics_)
    model = create_model(config.model, num_classes=len(OLD))
    images = jnp.zeros((1, size, size, dataset.image_shape[2]))
    init = compile_init(model)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    stages = sorted((name for name in params if name.startswith("stage")), key=lambda name: int(name[5:]))
    tx = make_optimizer("adam", config.learning_rate)
    methods = {
        "from scratch": [],
        "frozen features": lambda path, leaf: not path.startswith("head/classifier"),
        "last stage": [name for name in params if name not in (stages[-1], "head")],
        "everything": [],
    }
    tests = _subset(pipeline.test, NEW)
    step, evaluate = (
        jax.jit(skip_nonfinite(partial(train_step, preprocess=preprocess), 0)),
        jax.jit(partial(eval_step, preprocess=preprocess)),
    )

    pool = _subset(pipeline.train, NEW)
    if (fewest := np.bincount(pool["label"], minlength=len(NEW)).min()) < max(LABELS_A_CLASS):
        raise ConfigError(
            f"the study needs {max(LABELS_A_CLASS)} training images of each class, and one has {fewest}; give more "
            "--train-examples"
        )
    directory.create(
        {
            "dataset_version": dataset.version,
            "label_names": list(dataset.label_names),
            "train_images": len(dataset.train),
            "test_images": len(dataset.test),
            "image_size": size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        }
    )
    console.print(f"{len(dataset.train):,} training and {len(dataset.test):,} test images of {size}x{size} pixels")
    source = _subset(pipeline.train, OLD)
    state = finetune.train_state(model, init(jax.random.key(config.seed), images), tx, jax.random.key(config.seed))
    state = _train(step, state, source, 4 * STUDY_STEPS, config.seed)
    accuracy = means(jax.device_get(evaluate(state, _subset(pipeline.test, OLD))))["accuracy"]
    console.print(f"{config.model} knows the digits 0 to 4: test accuracy {accuracy:.2%}")

    found: dict[str, dict[int, list[float]]] = {name: {} for name in methods}
    for name, frozen in methods.items():
        # A new classifier on old layers learns faster than they do. One state a method, so that its step compiles once.
        scaled = finetune.scale_learning_rate(tx, params, {"head/classifier": NEW_HEAD_FACTOR})
        method_tx = tx if name == "from scratch" else scaled
        start = finetune.train_state(model, state.variables, method_tx, jax.random.key(0), frozen=frozen)
        for labels in LABELS_A_CLASS:
            scores = []
            for draw in range(DRAWS):
                key = jax.random.key(config.seed + 1 + draw)
                fresh = init(key, images)
                if name != "from scratch":
                    head = state.params["head"] | {"classifier": fresh["params"]["head"]["classifier"]}
                    fresh = state.variables | {"params": state.params | {"head": head}}
                begun = start.replace(
                    params=fresh["params"],
                    batch_stats=fresh.get("batch_stats", {}),
                    opt_state=start.tx.init(fresh["params"]),
                )
                trained = _train(step, begun, _few(pool, labels, draw), STUDY_STEPS, draw)
                finetune.check_frozen(begun, trained, frozen)
                scores.append(means(jax.device_get(evaluate(trained, tests)))["accuracy"])
            found[name][labels] = scores
            spread = statistics.stdev(scores)
            console.print(f"{name}, {labels} labels per class: {statistics.mean(scores):.2%} +- {spread:.2%}")
    _draw(found, directory.path / "transfer.png", f"{config.model}: digits 5 to 9 after 0 to 4")
    result = {"source_accuracy": accuracy, "accuracies": found, "seconds": time.perf_counter() - started}
    directory.write_result(result)
    console.print(f"Files are in {directory.path}", soft_wrap=True)
    return result


Batch = Mapping[str, np.ndarray]


def _subset(split: ArraySplit, classes: range) -> Batch:
    """Return all examples of some classes, which count from 0 then."""
    chosen = np.isin(split.labels, list(classes))
    return {"image": split.images[chosen], "label": (split.labels[chosen] - classes.start).astype(np.int32)}


def _few(pool: Batch, labels: int, draw: int) -> Batch:
    """Return ``labels`` examples of each class."""
    random = np.random.default_rng(draw)
    places = [random.permutation(np.flatnonzero(pool["label"] == label))[:labels] for label in np.unique(pool["label"])]
    chosen = np.concatenate(places)
    return {name: array[chosen] for name, array in pool.items()}


def _train(step: Any, state: Any, examples: Batch, steps: int, seed: int) -> Any:
    """Return the state after ``steps`` batches, drawn with replacement so that they all have one size.

    Raises:
      TrainingError: the loss or the gradient of one is not finite.
    """
    random = np.random.default_rng(seed)
    state = state.replace(nonfinite=jnp.zeros((), jnp.int32))
    for _ in range(steps):
        places = random.integers(0, len(examples["label"]), STUDY_BATCH)
        state, _ = step(state, {name: array[places] for name, array in examples.items()})
    if int(state.nonfinite):
        raise TrainingError(
            f"the loss or its gradient is not finite at step {int(state.step) + 1} of {steps}; lower --learning-rate"
        )
    return state


def _draw(found: Mapping[str, Mapping[int, Sequence[float]]], path: Path, title: str) -> None:
    """Draw accuracy over labels per class, with standard deviations."""
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for number, (name, scores) in enumerate(found.items()):
        labels = list(scores)
        # Side by side, as some of them lie on each other.
        places = [count * 1.05 ** (number - (len(found) - 1) / 2) for count in labels]
        mean = [100 * statistics.mean(scores[count]) for count in labels]
        spread = [100 * statistics.stdev(scores[count]) for count in labels]
        marker = "osD^v"[number % 5]
        axes.errorbar(places, mean, spread, fmt=f"{marker}-", capsize=3, markersize=5, label=name)
    axes.set(xlabel="labels per class", ylabel="test accuracy (%)", xscale="log", title=title)
    axes.set_xticks(LABELS_A_CLASS, [str(count) for count in LABELS_A_CLASS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""

    def command() -> None:
        config = parse(Config, arguments, __doc__)
        with locked(config.run_directory):
            study(config, Console(highlight=False))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
