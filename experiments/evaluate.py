"""Test a run again, with any of its checkpoints, or published weights, and show which classes they confuse.

    python experiments/evaluate.py --workdir runs/lenet5-digits
    python experiments/evaluate.py --workdir runs/resnet20-cifar10 --which last --data-dir DIR
    python experiments/evaluate.py --workdir runs/airbench94-cifar10 --test-time-augmentation mirror-shift
    python experiments/evaluate.py --weights torchvision://resnet50/IMAGENET1K_V2 --dataset imagenet2012 --data-dir DIR

Prints accuracy, top-5 accuracy and a table of the classes, and draws the confusion matrix; of images with several
labels, it prints precision, recall and average precision of each, and of networks that predict numbers the mean errors.
``evaluation-<step>.json`` and ``confusion-<step>.png`` are in ``--workdir``, or in ``--output``. Every test image
counts once. Other images than the run's (``--data-dir`` of a folder, CSV or .npz file) are all tested where they have
no splits of their own; their classes are matched by name, and may be some of the run's. Published weights need
``--dataset``: their classes are matched by name too, and all thousand WordNet ids (n01440764) stand for ImageNet's.
Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax.buckets import fetch
from cnnjax.data import DataError, DataPipeline, ImageDataset
from cnnjax.data.load import FILE_SETS, load_to_test
from cnnjax.models.views import over_views
from cnnjax.places import local_path
from cnnjax.pretrained import imagenet_classes
from cnnjax.pretrained.flags import add_network_flags, add_views_flag, check_network_flags, open_network
from cnnjax.runs import LoadedNetwork, Run
from cnnjax.runs.network import LABELLING
from cnnjax.runs.reader import run_config
from cnnjax.training import Devices, TrainConfig, run_command
from cnnjax.training.classifier import open_dataset
from cnnjax.visualize import plot_confusion
from cnnjax.visualize.measures import measure_text
from cnnjax.writing import write_whole

# Classes in the table; of more, those that are recognised worst.
SHOWN = 100
WORDNET_ID = re.compile(r"n\d{8}")


def images_to_test(network: LoadedNetwork, given: argparse.Namespace) -> ImageDataset:
    """Return the data set of a run or of --dataset; other images than a run's are all in ``test``."""
    if isinstance(network, Run):
        config = TrainConfig.from_json(network.config)
        if given.data_dir is None:
            return open_dataset(config)
    elif given.dataset is None:
        raise ValueError(f"{network.origin} names no images to test on: give --dataset, and --data-dir where they are")
    else:
        config = TrainConfig(dataset=given.dataset)
    config = dataclasses.replace(config, data_dir=given.data_dir)
    if config.dataset not in FILE_SETS:
        return open_dataset(config)
    data = load_to_test(
        config.dataset,
        given.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        on_bad_image=config.on_bad_image,
    )
    if not isinstance(network, Run) or data.num_classes < len(network.label_names):
        return data
    noted = run_config(fetch(local_path(given.workdir, "workdir", buckets=True)))
    assert noted is not None, "a run that was loaded"
    try:
        own = open_dataset(config)
    except DataError:
        # What cannot be trained on is not what the run was trained on.
        return data
    # The run's own images may lie elsewhere now; those that it was trained on are not tested.
    return own if own.version == noted["resolved"]["dataset_version"] else data


def label_numbers(dataset: ImageDataset, run: LoadedNetwork) -> np.ndarray:
    """Return which class or number of the network each of a data set's is, by name: int[names of the set].

    Raises:
      DataError: the set is for another task, or has a class that the network does not know, or not all numbers.
    """
    if dataset.task != run.task:
        raise DataError(f"the data set is for {dataset.task}, and the run was trained for {run.task}")
    ids = len(dataset.label_names) == 1000 and all(map(WORDNET_ID.fullmatch, dataset.label_names))
    if ids and run.label_names == imagenet_classes():
        # ImageNet numbers its classes by these.
        return np.argsort(np.argsort(np.array(dataset.label_names)))
    unknown = [name for name in dataset.label_names if name not in run.label_names]
    missing = [name for name in run.label_names if name not in dataset.label_names]
    if unknown or (missing and run.task == "regression"):
        fault = f"has {unknown[0]!r}, which the run does not know" if unknown else f"lacks {missing[0]!r}"
        raise DataError(
            f"the data set {fault}: it has {', '.join(dataset.label_names)}, and the run was trained on "
            f"{', '.join(run.label_names)}"
        )
    return np.array([run.label_names.index(name) for name in dataset.label_names])


def outputs_and_labels(run: LoadedNetwork, given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return float32[images, classes or numbers] of the test images, and their labels as the network numbers them.

    They are logarithms of probabilities; of several labels their logits, and 0 or 1 for each; or predicted numbers.
    """
    dataset = images_to_test(run, given)
    numbers = label_numbers(dataset, run)
    expected, channels = run.preprocessing, dataset.image_shape[-1]
    taken = len(expected.mean)
    if taken % channels:
        raise DataError(f"the data set's images have {channels} channels, and the run's network takes {taken}")
    resizer = TrainConfig.from_json(run.config).resizer if isinstance(run, Run) else "auto"
    prepare = functools.partial(expected.prepare, resizer=resizer)
    pipeline = DataPipeline(dataset, expected.size[0], dataset.train, dataset.test, test_transform=prepare)
    devices = Devices.choose("single")

    def outputs_of(variables: Any, images: jax.Array) -> jax.Array:
        found = over_views(functools.partial(run.apply, variables), images, given.test_time_augmentation)
        return jax.nn.log_softmax(found) if run.task == "classification" else found

    apply = devices.compile_apply(outputs_of)
    outputs, labels = [], []
    for batch in pipeline.test_batches(min(given.batch_size, len(pipeline.test))):
        real = batch["mask"].astype(bool)
        outputs.append(apply(run.variables, batch["image"])[real])
        labels.append(batch[pipeline.label_key][real])
    found = np.concatenate(labels)
    if run.task == "classification":
        return np.concatenate(outputs), numbers[found]
    ordered = np.zeros((len(found), len(run.label_names)), np.float32)
    ordered[:, numbers] = found
    return np.concatenate(outputs), ordered


def measure(log_p: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the numbers, and the confusion matrix int[classes, classes], true class by predicted class."""
    predicted, classes = log_p.argmax(1), log_p.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    own = log_p[np.arange(len(labels)), labels]
    numbers: dict[str, Any] = {
        "test_images": len(labels),
        "test_loss": float(-own.mean()),
        "test_accuracy": float((predicted == labels).mean()),
    }
    if classes > 5:
        numbers["test_top5_accuracy"] = float(((log_p > own[:, None]).sum(1) < 5).mean())
    return numbers, matrix


def table(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Return a row per class: its images, how many of them were recognised, and what the others were taken for."""
    columns = ("class", "images", "recall", "precision", "most often taken for")
    rows = Table(*columns, box=None, padding=(0, 2, 0, 0))
    recall = np.diag(matrix) / np.maximum(matrix.sum(1), 1)
    precision = np.diag(matrix) / np.maximum(matrix.sum(0), 1)
    others = matrix - np.diag(np.diag(matrix))
    chosen = range(len(names)) if len(names) <= SHOWN else np.argsort(recall, kind="stable")[:SHOWN]
    for index in chosen:
        other = int(others[index].argmax())
        taken = f"{names[other]} ({others[index, other]})" if others[index, other] else ""
        images = int(matrix[index].sum())
        rows.add_row(names[index], f"{images:,}", f"{recall[index]:.2%}", f"{precision[index]:.2%}", taken)
    return rows


def measure_labels(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return means over all images, and by label how many images have it, its recall and precision where it is said to
    be there from a probability of one half on, and its average precision: that at the rank of each image that has it.

    Args:
      logits: float32[images, labels].
      labels: float32[images, labels], 0 or 1.
    """
    true, said = labels >= 0.5, logits >= 0
    hits, count = (true & said).sum(0), true.sum(0)
    order = np.argsort(-logits, axis=0, kind="stable")
    ranked = np.take_along_axis(true, order, 0)
    at_rank = ranked.cumsum(0) / np.arange(1, len(ranked) + 1)[:, None]
    average = np.where(count > 0, (at_rank * ranked).sum(0) / np.maximum(count, 1), np.nan)
    x = logits.astype(np.float64)
    numbers = {
        "test_images": len(labels),
        "test_loss": float((np.logaddexp(0, x) - labels * x).mean()),
        "test_accuracy": float(np.take_along_axis(true, logits.argmax(1)[:, None], 1).mean()),
        "test_all_labels_accuracy": float((true == said).all(1).mean()),
        "test_mean_average_precision": float(np.nanmean(average)) if count.any() else None,
    }
    by_label = {"images": count, "recall": hits / np.maximum(count, 1), "precision": hits / np.maximum(said.sum(0), 1)}
    return numbers, by_label | {"average_precision": average}


def label_table(found: dict[str, np.ndarray], names: Sequence[str]) -> Table:
    """Return a row per label, see `measure_labels`."""
    rows = Table("label", "images", "recall", "precision", "average precision", box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        shares = [found[key][index] for key in ("recall", "precision", "average_precision")]
        rows.add_row(name, f"{found['images'][index]:,}", *("" if np.isnan(s) else f"{s:.2%}" for s in shares))
    return rows


def measure_errors(outputs: np.ndarray, targets: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return mean errors over all numbers, and the absolute errors and deviations by number.

    Args:
      outputs, targets: float32[images, numbers].
    """
    errors = outputs.astype(np.float64) - targets
    numbers = {
        "test_images": len(targets),
        "test_mse": float((errors**2).mean()),
        "test_mae": float(np.abs(errors).mean()),
    }
    return numbers, {"mae": np.abs(errors).mean(0), "mean_error": errors.mean(0), "std": targets.std(0)}


def error_table(errors: dict[str, np.ndarray], names: Sequence[str]) -> Table:
    """Return a row per number: its mean absolute error, its mean error, and how much it varies in the test images."""
    columns = ("number", "mean absolute error", "mean error", "standard deviation")
    rows = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        rows.add_row(name, *(f"{errors[key][index]:.4g}" for key in ("mae", "mean_error", "std")))
    return rows


def evaluate(given: argparse.Namespace) -> None:
    """Print and draw what the command line asks for."""
    run = open_network(given, *LABELLING)
    step = run.step if isinstance(run, Run) else None
    suffix = "" if step is None else f"-{step}"
    folder = local_path(given.output or given.workdir or Path("outputs") / "evaluate" / run.name, "output")
    outputs, labels = outputs_and_labels(run, given)
    console = Console(highlight=False)
    if run.task == "regression":
        numbers, errors = measure_errors(outputs, labels)
        console.print(error_table(errors, run.label_names))
        more = {name: values.tolist() for name, values in errors.items()}
    elif run.task == "multilabel":
        numbers, found = measure_labels(outputs, labels)
        console.print(label_table(found, run.label_names))
        # JSON has no number for what no image has.
        more = {name: [None if np.isnan(v) else v for v in values.tolist()] for name, values in found.items()}
    else:
        numbers, matrix = measure(outputs, labels)
        console.print(table(matrix, run.label_names))
        more = {"confusion": matrix.tolist()}
    dataset = run.config["dataset"] if isinstance(run, Run) else given.dataset
    console.print(f"{run.name} on {dataset} " + (f"of {run.origin}:" if step is None else f"after step {step}:"))
    for name, value in numbers.items():
        if value is not None:
            text = f"{value:,}" if isinstance(value, int) else measure_text(name, value)
            console.print(f"  {name.replace('_', ' ')}: {text}")
    folder.mkdir(parents=True, exist_ok=True)
    views = given.test_time_augmentation
    result = {"step": step, "test_time_augmentation": views, **numbers, "label_names": run.label_names, **more}
    write_whole(folder / f"evaluation{suffix}.json", json.dumps(result) + "\n")
    if run.task == "classification":
        title = f"{run.name} on {dataset}, {numbers['test_accuracy']:.2%}"
        plot_confusion(matrix, run.label_names, folder / f"confusion{suffix}.png", title)
    console.print(f"Files are in {folder}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_flags(parser)
    parser.add_argument("--dataset", help="data set to test on (default: the one that the run was trained on)")
    parser.add_argument(
        "--data-dir", type=Path, help="folder of the data set, or of other images to test (default: the run's)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images per call (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="folder to write to (default: the workdir, or outputs/evaluate/<model>)"
    )
    add_views_flag(parser)
    given = parser.parse_args(arguments)
    check_network_flags(parser, given)
    if given.workdir is None and given.weights is None:
        parser.error("give --workdir, or --weights")
    if given.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {given.batch_size}")
    return run_command(lambda: evaluate(given))


if __name__ == "__main__":
    sys.exit(main())
