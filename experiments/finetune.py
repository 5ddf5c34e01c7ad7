"""Fine-tune a network, with parts of it frozen.

    python experiments/finetune.py                         # what transfer is worth with few labels, on digits
    python experiments/finetune.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 --dataset cifar10 \\
        --data-dir DIR --epochs 5 --frozen stem "stage[1-3]" --learning-rate-scale "stage4=0.1"
    python experiments/finetune.py --model lenet5 --weights runs/lenet5-digits --unfreeze "0=head" "2=**" --epochs 4

With ``--weights``, one network is fine-tuned on one data set, by the training loop of `experiments/train.py`;
``--weights drawn`` trains it from scratch, for comparison.

Without, a network learns the digits 0 to 4 and is then taught 5 to 9 from 1, 5, 20 and 100 examples a class: from
scratch, with only a new classifier on frozen features, with its last stage and head, and as a whole; five draws of
examples each. A new classifier on old layers learns at ten times their rate. The picture shows accuracy with its
standard deviation.

The same command again goes on with a run that was stopped; with ``--change-frozen``, other parts may be frozen then.
Files are in ``--workdir``: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``result.json`` and ``curves.png``; of
the study ``transfer.png``, and in ``source/`` the run of the digits 0 to 4. Exit codes: 0 the run is complete; 2 it
cannot be run as asked, with the reason on stderr; 130 (SIGINT) or 143 (SIGTERM) it was stopped and can be resumed.
"""

from __future__ import annotations

import dataclasses
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
from cnnjax.data import DataError, DataPipeline, Preprocess, load_dataset
from cnnjax.data.source import ArraySplit, ImageDataset
from cnnjax.finetune.run import FineTuneConfig, fine_tune
from cnnjax.models import create_model
from cnnjax.pretrained import image_format
from cnnjax.pretrained.run_files import read_run
from cnnjax.training import CheckpointError, Interrupted, Setup, TrainingError, eval_step, make_optimizer, train_step
from cnnjax.training.loop import execute
from cnnjax.training.metrics import means
from cnnjax.training.rundir import RunDirectory

LABELS_A_CLASS = (1, 5, 20, 100)
DRAWS = 5
SOURCE_EPOCHS = 25
STUDY_STEPS, STUDY_BATCH = 150, 32
NEW_HEAD_FACTOR = 10.0
OLD, NEW = range(5), range(5, 10)
# What can be chosen for the study.
STUDY_FLAGS = {"model", "dataset", "data_dir", "workdir", "learning_rate", "image_size", "seed", "parallel"}

Batch = Mapping[str, np.ndarray]


def study(config: FineTuneConfig, console: Console) -> dict[str, Any]:
    """Measure what transfer is worth with few labels, and return accuracies by method and labels a class."""
    started = time.perf_counter()
    for field in dataclasses.fields(config):
        if field.name not in STUDY_FLAGS and getattr(config, field.name) != field.default:
            raise ValueError(f"the study has its own --{field.name.replace('_', '-')}; leave it out, or give --weights")
    directory = RunDirectory(config.run_directory, config)
    if (result := directory.result()) is not None:
        console.print(f"The study is complete; its files are in {directory.path}", soft_wrap=True)
        return result
    dataset = load_dataset(config.dataset, config.data_dir)
    if dataset.num_classes != 10:
        raise ValueError(f"the study divides ten classes, {config.dataset} has {dataset.num_classes}; give --weights")
    size = config.image_size or image_format(config.model, "").size[0]
    pipeline = DataPipeline.create(dataset, size)
    if not isinstance(pipeline.train, ArraySplit) or not isinstance(pipeline.test, ArraySplit):
        raise ValueError(f"{config.dataset} does not fit into memory; give --weights for a run on a large data set")
    directory.create({"labels_a_class": LABELS_A_CLASS, "draws": DRAWS, "steps": STUDY_STEPS, "batch": STUDY_BATCH})

    source = directory.path / "source"
    source_accuracy = _learn_source(config, dataset, pipeline.train, pipeline.test, source, console)
    # Not `cnnjax.pretrained.load`: it expects shapes that --image-size may have changed.
    variables = read_run(source)
    known = image_format(config.model, source)
    preprocess = Preprocess(known.mean, known.std)
    model = create_model(config.model, num_classes=len(NEW))
    images = jnp.zeros((1, size, size, dataset.image_shape[2]))
    # Draws of more than one dimension compile for seconds on CPU, unless XLA does not optimise them.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = jax.jit(model.init, compiler_options=options)
    params = variables["params"]
    stages = sorted((name for name in params if name.startswith("stage")), key=lambda name: int(name[5:]))
    methods: dict[str, Any] = {
        "from scratch": [],
        "frozen features": lambda path, leaf: not path.startswith("head/classifier"),
        "last stage": [name for name in params if name not in (stages[-1], "head")],
        "everything": [],
    }
    tests, pool = _examples(pipeline.test, NEW), _examples(pipeline.train, NEW)
    step = jax.jit(partial(train_step, preprocess=preprocess))
    evaluate = jax.jit(partial(eval_step, preprocess=preprocess))
    tx = make_optimizer("adam", config.learning_rate)
    # A new classifier on old layers learns faster than they do.
    scaled = finetune.scale_learning_rate(tx, params, {"head/classifier": NEW_HEAD_FACTOR})

    # Each training is done once, also if the study was stopped in between.
    directory.forget_after(len(methods) * len(LABELS_A_CLASS) * DRAWS)
    done = {(record["method"], record["labels"], record["draw"]): record for record in directory.records()}
    for method, frozen in methods.items():
        # One state a method, so that its step compiles once.
        method_tx = tx if method == "from scratch" else scaled
        start = finetune.train_state(model, variables, method_tx, jax.random.key(0), frozen=frozen)
        for labels in LABELS_A_CLASS:
            for draw in range(DRAWS):
                if (method, labels, draw) in done:
                    continue
                fresh = init(jax.random.key(config.seed + 1 + draw), images)
                if method != "from scratch":
                    head = params["head"] | {"classifier": fresh["params"]["head"]["classifier"]}
                    fresh = variables | {"params": params | {"head": head}}
                begun = start.replace(
                    params=jax.tree.map(jnp.asarray, fresh["params"]),
                    batch_stats=jax.tree.map(jnp.asarray, fresh.get("batch_stats", {})),
                    opt_state=start.tx.init(fresh["params"]),
                )
                trained, rate = _train(step, begun, _few(pool, labels, draw), draw)
                finetune.check_frozen(begun, trained, frozen)
                accuracy = means(jax.device_get(evaluate(trained, tests)))["accuracy"]
                record = {"method": method, "labels": labels, "draw": draw}
                done[method, labels, draw] = record | {"test_accuracy": accuracy, "images_per_second": rate}
                directory.append({"kind": "draw", "step": len(done), **done[method, labels, draw]})
            scores = [done[method, labels, draw]["test_accuracy"] for draw in range(DRAWS)]
            spread = statistics.stdev(scores)
            console.print(f"{method}, {labels} labels a class: {statistics.mean(scores):.2%} +- {spread:.2%}")
    found = {
        method: {
            labels: [done[method, labels, draw]["test_accuracy"] for draw in range(DRAWS)] for labels in LABELS_A_CLASS
        }
        for method in methods
    }
    _draw(found, directory.path / "transfer.png", f"{config.model}: digits 5 to 9 after 0 to 4")
    result = {
        "steps": STUDY_STEPS * len(done),
        "source_accuracy": source_accuracy,
        "accuracies": found,
        "images_per_second": statistics.median(record["images_per_second"] for record in done.values()),
        # Of this part of the study, if it was stopped.
        "seconds": time.perf_counter() - started,
    }
    directory.write_result(result)
    console.print(f"Files are in {directory.path}", soft_wrap=True)
    return result


def _learn_source(
    config: FineTuneConfig, dataset: ImageDataset, train: ArraySplit, test: ArraySplit, folder: Path, console: Console
) -> float:
    """Train the network on the first classes, in a folder of its own, and return its test accuracy."""
    old = dataclasses.replace(
        dataset,
        train=ArraySplit(*_examples(train, OLD).values()),
        test=ArraySplit(*_examples(test, OLD).values()),
        label_names=dataset.label_names[: len(OLD)],
        image_shape=train.images.shape[1:],
    )
    run = dataclasses.replace(
        config, workdir=folder, epochs=SOURCE_EPOCHS, batch_size=STUDY_BATCH, optimizer="adam", schedule="constant"
    )
    return execute(RunDirectory(folder, run), partial(Setup.create, run, dataset=old), console)["test_accuracy"]


def _examples(split: ArraySplit, classes: range) -> Batch:
    """Return all examples of some classes, which count from 0 then."""
    chosen = np.isin(split.labels, list(classes))
    return {"image": split.images[chosen], "label": (split.labels[chosen] - classes.start).astype(np.int32)}


def _few(pool: Batch, labels: int, draw: int) -> Batch:
    """Return ``labels`` examples of each class."""
    random = np.random.default_rng(draw)
    places = [random.permutation(np.flatnonzero(pool["label"] == label))[:labels] for label in np.unique(pool["label"])]
    chosen = np.concatenate(places)
    return {name: array[chosen] for name, array in pool.items()}


def _train(step: Any, state: Any, examples: Batch, seed: int) -> tuple[Any, float]:
    """Return the state after some batches, drawn with replacement so that they all have one size, and images a second.

    The first step, which may compile, does not count for the rate.
    """
    random = np.random.default_rng(seed)
    began = time.perf_counter()
    for number in range(STUDY_STEPS):
        places = random.integers(0, len(examples["label"]), STUDY_BATCH)
        state, _ = step(state, {name: array[places] for name, array in examples.items()})
        if number == 0:
            jax.block_until_ready(state)
            began = time.perf_counter()
    jax.block_until_ready(state)
    return state, STUDY_BATCH * (STUDY_STEPS - 1) / (time.perf_counter() - began)


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
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    console = Console(highlight=False)
    config = tyro.cli(FineTuneConfig, args=arguments, description=__doc__)
    try:
        if config.weights is None:
            study(config, console)
        else:
            fine_tune(config, console)
    except (ValueError, DataError, CheckpointError, TrainingError, OSError) as error:
        errors.print(f"error: {error}", style="red", markup=False)
        return 2
    except (Interrupted, KeyboardInterrupt) as stop:
        errors.print("stopped; the same command again goes on from here", markup=False)
        return 128 + stop.signal if isinstance(stop, Interrupted) else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
