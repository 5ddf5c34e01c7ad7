"""Fine-tune a network, with parts of it frozen.

    python experiments/finetune.py                         # what transfer is worth with few labels, on digits
    python experiments/finetune.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 --dataset cifar10 \\
        --data-dir DIR --epochs 5 --frozen stem "stage[1-3]" --learning-rate-scale "stage4=0.1"
    python experiments/finetune.py --model lenet5 --weights runs/lenet5-digits --unfreeze "0=head" "2=**" --epochs 4

Without ``--weights``, a network learns the digits 0 to 4 and is then taught 5 to 9 from 1, 5, 20 and 100 examples a
class: from scratch, with only a new classifier on frozen features, with its last stage and head, and as a whole; five
draws of examples each. A new classifier on old layers learns at ten times their rate. The picture shows accuracy with
its standard deviation.

With ``--weights``, one network is fine-tuned on one data set. Files are in ``--workdir``: ``result.json``,
``metrics.jsonl`` and ``curves.png`` or ``transfer.png``. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from cnnjax import finetune
from cnnjax.data import DataPipeline, Preprocess, load_dataset
from cnnjax.data.source import ArraySplit
from cnnjax.models import create_model, model_info
from cnnjax.pretrained import load
from cnnjax.training import (
    Devices,
    TrainingError,
    eval_step,
    make_optimizer,
    make_schedule,
    require_one,
    run_command,
    train_step,
)
from cnnjax.training.metrics import Classification, means, zero_sums
from cnnjax.training.nonfinite import describe_bad_step, skip_nonfinite
from cnnjax.training.optim import OptimizerName
from cnnjax.training.parallel import ParallelMode
from cnnjax.training.setup import sum_over
from cnnjax.visualize import plot_curves

LABELS_A_CLASS = (1, 5, 20, 100)
DRAWS = 5
STUDY_STEPS, STUDY_BATCH = 150, 32
NEW_HEAD_FACTOR = 10.0
# Steps between two looks at whether a loss or gradient was not finite.
CHECK_STEPS = 50
OLD, NEW = range(5), range(5, 10)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tune a network."""

    model: str = "lenet5"
    """A classifier, see python -m cnnjax.models."""
    weights: str | None = None
    """A file, a run or a hub, see cnnjax.pretrained.load; None: the study of few labels."""
    dataset: str = "digits"
    """An image-classification data set of TFDS."""
    data_dir: Path | None = None
    """Folder of prepared data sets."""
    workdir: Path | None = None
    """Folder for the files; None: runs/finetune-<model>-<dataset>."""
    frozen: tuple[str, ...] = ()
    """Patterns of what is frozen, such as stem "stage[1-3]"."""
    learning_rate_scale: tuple[str, ...] = ()
    """PATTERN=FACTOR of parts with another learning rate, such as "head=10"; the last that matches counts."""
    unfreeze: tuple[str, ...] = ()
    """EPOCH=PATTERN,... of what begins to train then (epochs from 0), such as "0=head" "5=stage4"."""
    epochs: int = 5
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all devices."""
    learning_rate: float = 1e-3
    """Falls to 0 along a cosine."""
    optimizer: OptimizerName = "adamw"
    """Optimizer, from optax."""
    weight_decay: float = 1e-4
    """Of weights, not of biases and normalisations."""
    image_size: int | None = None
    """Pixels; None: the network's."""
    seed: int = 0
    """Of the new head, the order and the augmentation."""
    parallel: ParallelMode = "auto"
    """jit, pmap: all devices, see README; single: one device; auto: pmap if there are several devices."""

    def check(self) -> None:
        """Refuse impossible values before anything is built."""
        for name, good, expected in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
        ):
            if not good:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
        if self.frozen and self.unfreeze:
            raise ValueError("--frozen and --unfreeze both say what trains; give one of them")
        if self.weights is None and (self.frozen or self.unfreeze or self.learning_rate_scale):
            raise ValueError("--frozen, --unfreeze and --learning-rate-scale need --weights to start from")
        if model_info(self.model).task != "classification":
            raise ValueError(f"{self.model} is no classifier; take one whose task is classification")

    @property
    def folder(self) -> Path:
        """Folder for the files."""
        return self.workdir or Path("runs") / f"finetune-{self.model}-{self.dataset.replace('/', '-')}"

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
                raise ValueError(f"--learning-rate-scale must be PATTERN=FACTOR, got {text!r}")
        return found

    @property
    def phases(self) -> dict[int, tuple[str, ...]]:
        """Patterns that begin to train, by epoch."""
        found = {}
        for text in self.unfreeze:
            epoch, separator, patterns = text.partition("=")
            if not separator or not epoch.isdecimal():
                raise ValueError(f"--unfreeze must be EPOCH=PATTERN,..., got {text!r}")
            found[int(epoch)] = tuple(patterns.split(","))
        return found


# ---------------------------------------------------------------------------------------- one network, one data set


def fine_tune(config: Config, console: Console) -> dict[str, Any]:
    """Fine-tune a network as ``config`` says, and return the result."""
    started = time.perf_counter()
    devices = Devices.choose(config.parallel)
    devices.check_batch_size(config.batch_size)
    assert config.weights is not None
    info = model_info(config.model)
    dataset = load_dataset(config.dataset, config.data_dir)
    pipeline = DataPipeline.create(dataset, config.image_size or info.input_size[0])
    channels = dataset.image_shape[2]
    # The weights expect pixels as they were trained with.
    mean, std = _normalisation(config.weights, info.mean, info.std)
    if len(mean) != channels:
        raise ValueError(f"{config.dataset} has images of {channels} channels, {config.model} takes {len(mean)}")
    model = create_model(config.model, num_classes=dataset.num_classes)
    key = jax.random.key(config.seed)
    variables = load(config.model, config.weights, num_classes=dataset.num_classes, redraw_head=key)
    params = variables["params"]

    steps_an_epoch = math.ceil(len(pipeline.train) / config.batch_size)
    num_steps = config.epochs * steps_an_epoch
    rate = make_schedule("cosine", config.learning_rate, num_steps)
    tx = make_optimizer(config.optimizer, rate, weight_decay=config.weight_decay)
    if config.factors:
        tx = finetune.scale_learning_rate(tx, params, config.factors)
    schedule = finetune.unfreeze_schedule(config.phases) if config.unfreeze else None
    if schedule is not None:
        schedule.check(params, config.epochs)
    frozen: Any = config.frozen if schedule is None else schedule.frozen_mask(params, 0)
    console.print(str(finetune.describe(params, frozen=frozen)), markup=False)

    preprocess = Preprocess(mean, std)
    state = finetune.train_state(model, variables, tx, key, frozen=frozen)
    state = devices.replicate(state.replace(nonfinite=jnp.zeros((), jnp.int32)))
    step = devices.compile_train(skip_nonfinite(partial(train_step, preprocess=preprocess), 0))
    evaluate = devices.compile_eval(partial(eval_step, preprocess=preprocess))
    batches = pipeline.train_batches(config.batch_size, num_steps, config.seed)
    config.folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for epoch in range(config.epochs):
        if schedule is not None:
            state = devices.replicate(schedule.advance(devices.unreplicate(state), tx, epoch))
        sums = devices.replicate(zero_sums())
        place = batches.get_state()
        for number in range(1, steps_an_epoch + 1):
            state, sums = step(state, sums, devices.shard(next(batches)))
            # The state stays as it was before a bad step, so it need not be looked at after each.
            if (number % CHECK_STEPS == 0 or number == steps_an_epoch) and int(devices.unreplicate(state.nonfinite)):
                batches.set_state(place)
                for _ in range(int(devices.unreplicate(state.step)) + 1 - epoch * steps_an_epoch):
                    batch = devices.shard(next(batches))
                found = describe_bad_step(
                    lambda state, sums, batch=batch: step(state, sums, batch),
                    devices,
                    state,
                    lambda step: float(rate(step - 1)),
                    Classification(),
                )
                raise TrainingError(f"{found}. Lower --learning-rate; {config.folder} has the epochs before")
        train = means(jax.device_get(devices.unreplicate(sums)))
        test = _test(devices, evaluate, state, pipeline, config.batch_size)
        records.append(
            {"kind": "epoch", "step": (epoch + 1) * steps_an_epoch, "epoch": epoch + 1}
            | {f"train_{name}": value for name, value in train.items()}
            | {f"test_{name}": value for name, value in test.items()}
        )
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (config.folder / "metrics.jsonl").write_text(lines)
        console.print(f"epoch {epoch + 1}: train loss {train['loss']:.4f}, test accuracy {test['accuracy']:.2%}")
    plot_curves(records, config.folder / "curves.png", f"{config.model} on {config.dataset}, fine-tuned")
    last = {name: value for name, value in records[-1].items() if name.startswith(("train_", "test_"))}
    return {"steps": num_steps, "epochs": config.epochs, **last, "seconds": time.perf_counter() - started}


def _normalisation(weights: str, mean: Sequence[float], std: Sequence[float]) -> tuple[Any, Any]:
    """Return mean and deviation a channel of what the weights were trained with."""
    file = Path(weights) / "config.json"
    if file.is_file():
        resolved = json.loads(file.read_text())["resolved"]
        return tuple(resolved["mean"]), tuple(resolved["std"])
    return tuple(mean), tuple(std)


def _test(devices: Devices, evaluate: Any, state: Any, pipeline: DataPipeline, batch_size: int) -> dict[str, float]:
    batches = pipeline.test_batches(devices.pad_batch_size(batch_size))
    return means(sum_over(devices, evaluate, state, batches, Classification()))


# ------------------------------------------------------------------------------------------ the study of few labels


def study(config: Config, console: Console) -> dict[str, Any]:
    """Measure what transfer is worth with few labels, and return accuracies by method and labels a class."""
    started = time.perf_counter()
    info = model_info(config.model)
    dataset = load_dataset(config.dataset, config.data_dir)
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
    # Draws of more than one dimension compile for seconds on CPU, unless XLA does not optimise them.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = jax.jit(model.init, compiler_options=options)
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

    source = _subset(pipeline.train, OLD)
    state = finetune.train_state(model, init(jax.random.key(config.seed), images), tx, jax.random.key(config.seed))
    state = _train(step, state, source, 4 * STUDY_STEPS, config.seed)
    accuracy = means(jax.device_get(evaluate(state, _subset(pipeline.test, OLD))))["accuracy"]
    console.print(f"{config.model} knows the digits 0 to 4: test accuracy {accuracy:.2%}")

    pool = _subset(pipeline.train, NEW)
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
    config.folder.mkdir(parents=True, exist_ok=True)
    _draw(found, config.folder / "transfer.png", f"{config.model}: digits 5 to 9 after 0 to 4")
    return {"source_accuracy": accuracy, "accuracies": found, "seconds": time.perf_counter() - started}


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""

    def command() -> None:
        config = tyro.cli(Config, args=arguments, description=__doc__)
        config.check()
        require_one("finetune.py")
        console = Console(highlight=False)
        result = study(config, console) if config.weights is None else fine_tune(config, console)
        (config.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        console.print(f"Files are in {config.folder}")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
