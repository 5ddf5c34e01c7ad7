"""Fine-tune a network, with parts of it frozen.

    python experiments/finetune.py                         # what transfer is worth with few labels, on digits
    python experiments/finetune.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 --dataset cifar10 \\
        --data-dir DIR --epochs 5 --frozen stem "stage[1-3]" --learning-rate-scale "stage4=0.1"
    python experiments/finetune.py --weights runs/lenet5-digits --unfreeze "0=head" "2=**" --epochs 4

Without ``--weights``, a network learns the digits 0 to 4 and is then taught 5 to 9 from 1, 5, 20 and 100 examples a
class: from scratch, with only a new classifier on frozen features, with its last stage and head, and as a whole; five
draws of examples each. A new classifier on old layers learns at ten times their rate. The picture shows accuracy with
its standard deviation.

With ``--weights``, one network is fine-tuned on one data set; ``--weights drawn`` is the same from scratch. The run is
one as ``train.py`` leaves it: the same command again goes on where it was stopped, and ``cnnjax.load_run``,
``predict.py`` and ``evaluate.py`` read it.

Files are in ``--workdir``: ``config.json``, ``result.json``, and ``metrics.jsonl``, ``checkpoints/`` and ``curves.png``
or ``transfer.png``. Exit codes: 0; 2 with the reason on stderr; 130 or 143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
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
import tyro
from flax import traverse_util
from rich.console import Console

from cnnjax import finetune
from cnnjax.data import DataPipeline, ImageDataset, Preprocess, load_dataset
from cnnjax.data.source import ArraySplit
from cnnjax.models import create_model, model_info
from cnnjax.pretrained import ImageFormat, image_format, load
from cnnjax.runs import RunDirectory
from cnnjax.training import (
    ConfigError,
    ImageToImageConfig,
    ImageToImageSetup,
    TrainingError,
    TrainState,
    eval_step,
    fit,
    make_optimizer,
    require_one,
    run_command,
    train_step,
)
from cnnjax.training.metrics import Classification, means
from cnnjax.training.nonfinite import skip_nonfinite
from cnnjax.training.optim import OptimizerName

LABELS_A_CLASS = (1, 5, 20, 100)
DRAWS = 5
STUDY_STEPS, STUDY_BATCH = 150, 32
NEW_HEAD_FACTOR = 10.0
OLD, NEW = range(5), range(5, 10)
# In place of weights: parameters as the network's authors draw them.
DRAWN = "drawn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ImageToImageConfig):
    """Fine-tune a network, or go on with a run that was stopped."""

    model: str = "lenet5"
    """A classifier, see python -m cnnjax.models."""
    weights: str | None = None
    """A file, a run or a hub, see cnnjax.pretrained.load; "drawn": none; None: the study of few labels."""
    dataset: str = "digits"
    """digits, faces (both need no download), an image-classification set of TFDS, or your own: folder, csv, npz."""
    data_dir: Path | None = None
    """Folder of prepared data sets; of folder, csv and npz: the data itself."""
    train_examples: int | None = None
    """Take only the first training images; None: all."""
    test_examples: int | None = None
    """Take only the first test images; None: all."""
    frozen: tuple[str, ...] = ()
    """Patterns of what is frozen, such as stem "stage[1-3]"."""
    learning_rate_scale: tuple[str, ...] = ()
    """PATTERN=FACTOR of parts with another learning rate, such as "head=10"; the last that matches counts."""
    unfreeze: tuple[str, ...] = ()
    """EPOCH=PATTERN,... of what begins to train then (epochs from 0), such as "0=head" "5=stage4"."""
    epochs: float = 5
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all devices."""
    optimizer: OptimizerName = "adamw"
    """Optimizer, from optax."""
    weight_decay: float = 1e-4
    """Of weights, not of biases and normalisations."""
    image_size: int | None = None
    """Pixels; None: what the weights were trained with."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        self.require(
            [
                (name, (count := getattr(self, name)) is None or count >= 1, "at least 1")
                for name in ("train_examples", "test_examples", "image_size")
            ]
        )
        if self.frozen and self.unfreeze:
            raise ConfigError("--frozen and --unfreeze both say what trains; give one of them")
        if self.weights is None and (self.frozen or self.unfreeze or self.learning_rate_scale):
            raise ConfigError("--frozen, --unfreeze and --learning-rate-scale need --weights to start from")
        try:
            task = model_info(self.model).task
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if task != "classification":
            raise ConfigError(f"{self.model} is no classifier; take one whose task is classification")
        # What they say is parsed now, so that it fails now.
        _ = self.factors, self.phases

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        return f"{'few-labels' if self.weights is None else 'finetune'}-{self.model}-{self.dataset}"

    @property
    def factors(self) -> dict[str, float]:
        """Learning-rate factors by pattern."""
        found = {}
        for text in self.learning_rate_scale:
            pattern, separator, factor = text.rpartition("=")
            try:
                found[pattern] = float(factor)
            except ValueError:
                separator = ""
            if not separator:
                raise ConfigError(f"--learning-rate-scale must be PATTERN=FACTOR, got {text!r}")
        return found

    @property
    def phases(self) -> dict[int, tuple[str, ...]]:
        """Patterns that begin to train, by epoch."""
        found = {}
        for text in self.unfreeze:
            epoch, separator, patterns = text.partition("=")
            if not separator or not epoch.isdecimal():
                raise ConfigError(f"--unfreeze must be EPOCH=PATTERN,..., got {text!r}")
            found[int(epoch)] = tuple(patterns.split(","))
        return found


def open_data(config: Config) -> ImageDataset:
    """Return the data set, or as much of it as the config asks for."""
    dataset = load_dataset(config.dataset, config.data_dir).first(config.train_examples, config.test_examples)
    if config.batch_size > len(dataset.train):
        raise ConfigError(
            f"batch_size must be at most {len(dataset.train)}, the number of training images, got {config.batch_size}"
        )
    return dataset


def compile_init(model: nn.Module) -> Callable[[jax.Array, jax.Array], dict[str, Any]]:
    """Return the function of (key, images) that draws variables as the network's authors do."""
    # Draws of more than one dimension compile for seconds on CPU, unless XLA does not optimise them.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(model.init, compiler_options=options)


# ---------------------------------------------------------------------------------------- one network, one data set


@dataclasses.dataclass(frozen=True)
class FineTuning(ImageToImageSetup):
    """A run that starts from given variables, parts of them frozen.

    Attributes:
      start: the variables.
      unfreezing: what trains from which epoch on, or None.
    """

    start: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unfreezing: finetune.UnfreezeSchedule | None = None

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, that a step, from 0, is part of."""
        return step * self.config.batch_size // self.num_examples

    def initial_state(self) -> TrainState:
        """Return the state of step 0, with what is frozen where the run goes on."""
        assert isinstance(self.config, Config)
        frozen: Any = self.config.frozen
        if self.unfreezing is not None:
            # Checkpoints are named by the steps taken.
            saved = (self.config.run_directory / "checkpoints").glob("*")
            taken = max((int(step.name) for step in saved if step.name.isdecimal()), default=0)
            frozen = self.unfreezing.frozen_mask(self.start["params"], self.epoch_of(max(taken - 1, 0)))
        state = finetune.train_state(self.model, self.start, self.tx, jax.random.key(self.config.seed), frozen=frozen)
        return state.replace(nonfinite=jnp.zeros((), jnp.int32))


class ThawingStep:
    """A training step before which thaws what thaws in its epoch."""

    def __init__(self, setup: FineTuning, unfreezing: finetune.UnfreezeSchedule) -> None:
        self._setup, self._unfreezing = setup, unfreezing
        self._step = 0
        self._epoch: int | None = None
        self._returned: Any = None

    def __call__(self, state: Any, sums: Any, batch: Any) -> tuple[Any, Any]:
        """Return state and sums after the step; both are donated."""
        setup, devices = self._setup, self._setup.devices
        # Asking the state for its step waits for the device.
        self._step = self._step + 1 if state is self._returned else int(devices.unreplicate(state).step)
        if (epoch := setup.epoch_of(self._step)) != self._epoch:
            self._epoch = epoch
            state = devices.replicate(self._unfreezing.advance(devices.unreplicate(state), setup.tx, epoch))
        self._returned, sums = setup.train(state, sums, batch)
        return self._returned, sums


def set_up(config: Config, console: Console) -> ImageToImageSetup:
    """Build the run of one network on one data set."""
    assert config.weights is not None
    info = model_info(config.model)
    dataset = open_data(config)
    # The weights expect pixels as they were trained with.
    expected = image_format(config.model, config.weights)
    # Grey images become coloured when they are normalised.
    if (channels := dataset.image_shape[2]) not in (1, len(expected.mean)):
        raise ConfigError(
            f"{config.dataset} has images of {channels} channels, {config.model} takes {len(expected.mean)}"
        )
    size = config.image_size or expected.size[0]
    pipeline = DataPipeline.create(
        dataset,
        size,
        resize_size=info.resize_size and round(size * info.resize_size / info.input_size[0]),
        interpolation=info.interpolation,
    )
    model = create_model(config.model, num_classes=dataset.num_classes, dtype=jnp.dtype(config.dtype))
    base = FineTuning.create(
        config,
        model=model,
        pipeline=pipeline,
        image_shape=(size, size, len(expected.mean)),
        num_examples=len(dataset.train),
        preprocess=Preprocess(expected.mean, expected.std),
        loss="cross_entropy",
        metrics=Classification(dataset.num_classes),
        measure="accuracy",
        facts=_facts(dataset, pipeline, expected),
    )
    start = _start(config, base.model, dataset.num_classes, jnp.zeros((1, *base.image_shape)))
    tx = base.tx
    if config.factors:
        tx = finetune.scale_learning_rate(tx, start["params"], config.factors)
    unfreezing = finetune.unfreeze_schedule(config.phases) if config.unfreeze else None
    frozen: Any = config.frozen
    if unfreezing is not None:
        unfreezing.check(start["params"], config.epochs)
        frozen = unfreezing.frozen_mask(start["params"], 0)
    console.print(str(finetune.describe(start["params"], frozen=frozen)), markup=False)
    console.print(f"{len(dataset.train):,} training and {len(dataset.test):,} test images of {size}x{size} pixels")
    setup = dataclasses.replace(base, start=start, tx=tx, unfreezing=unfreezing)
    return setup if unfreezing is None else dataclasses.replace(setup, train=ThawingStep(setup, unfreezing))


def _start(config: Config, model: nn.Module, num_classes: int, images: jax.Array) -> dict[str, Any]:
    """Return the variables to start from, with a classifier of their own for the data set."""
    key = jax.random.key(config.seed)
    if config.weights == DRAWN:
        return compile_init(model)(key, images)
    assert config.weights is not None
    variables = load(config.model, config.weights, num_classes=num_classes, redraw_head=key)
    expected = traverse_util.flatten_dict(jax.eval_shape(model.init, key, images)["params"], sep="/")
    for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        if leaf.shape != expected[path].shape:
            raise ConfigError(
                f"{config.weights} holds {path} {list(leaf.shape)}, which images of {images.shape[1]} pixels need as "
                f"{list(expected[path].shape)}: {config.model} flattens its maps, and takes images of the size it was "
                "trained with alone; leave out --image-size"
            )
    return variables


def _facts(dataset: ImageDataset, pipeline: DataPipeline, expected: ImageFormat) -> dict[str, Any]:
    """Return what the config left open; `cnnjax.load_run` goes by it."""
    return {
        "dataset_version": dataset.version,
        "task": dataset.task,
        "num_classes": dataset.num_classes,
        "fields": {},
        "label_names": list(dataset.label_names),
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image_size": pipeline.image_size,
        "channels": dataset.image_shape[2],
        "resize_size": getattr(pipeline.test_transform, "resize_size", None),
        "interpolation": getattr(pipeline.test_transform, "interpolation", "bilinear"),
        "mean": list(expected.mean),
        "std": list(expected.std),
    }


# ------------------------------------------------------------------------------------------ the study of few labels


def study(config: Config, console: Console) -> dict[str, Any]:
    """Measure what transfer is worth with few labels, and return accuracies by method and labels a class."""
    started = time.perf_counter()
    directory = RunDirectory(config.run_directory, config)
    if (result := directory.result()) is not None:
        console.print("The study is complete; nothing is left to do. Give another --workdir to repeat it.")
        return result
    info = model_info(config.model)
    dataset = open_data(config)
    if dataset.num_classes != 10:
        raise ValueError(f"the study divides ten classes, {config.dataset} has {dataset.num_classes}; give --weights")
    size = config.image_size or info.input_size[0]
    pipeline = DataPipeline.create(dataset, size)
    if not isinstance(pipeline.train, ArraySplit) or not isinstance(pipeline.test, ArraySplit):
        raise ValueError(f"{config.dataset} does not fit into memory; give --weights for a run on a large data set")
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
    directory.create(_facts(dataset, pipeline, ImageFormat((size, size), *statistics_)))
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
            console.print(f"{name}, {labels} labels a class: {statistics.mean(scores):.2%} +- {spread:.2%}")
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
    """Draw accuracy over labels a class, with standard deviations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, scores in found.items():
        labels = list(scores)
        mean = [100 * statistics.mean(scores[count]) for count in labels]
        spread = [100 * statistics.stdev(scores[count]) for count in labels]
        axes.errorbar(labels, mean, spread, marker="o", capsize=3, label=name)
    axes.set(xlabel="labels a class", ylabel="test accuracy (%)", xscale="log", title=title)
    axes.set_xticks(LABELS_A_CLASS, [str(count) for count in LABELS_A_CLASS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")


def run(config: Config, console: Console) -> None:
    """Do what the command line asks for."""
    require_one("finetune.py")
    if config.weights is None:
        study(config, console)
    else:
        fit(config, console, partial(set_up, console=console))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: run(tyro.cli(Config, args=arguments, description=__doc__), Console(highlight=False)))


if __name__ == "__main__":
    sys.exit(main())
